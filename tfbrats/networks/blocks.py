"""The building blocks that the networks share. Keras layers and keras.ops alone: any Keras backend.

Every layer is named, so that a summary, a checkpoint or a graph reads like the paper's figure. On TensorFlow
the batch normalisations are `tfbrats.networks.batch_norm`'s: the same numbers, sooner.
"""

import keras
from keras import layers, ops

_GLOROT = "glorot_normal"  # paper A's authors' code
# Paper A trained with PyTorch; these are its defaults ([ours]; Keras would take 0.99 and 1e-3).
_NORM_MOMENTUM = 0.9
_NORM_EPSILON = 1e-5
_AUXILIARY_CHANNELS = 16  # [ours]


class Norm:
    """Makes the batch normalisations of one network, all alike.

    Args:
        synchronised: moments over the global batch rather than each replica's share of it.
    """

    def __init__(self, synchronised: bool):
        self._synchronised = synchronised
        self._layer = layers.BatchNormalization
        if keras.backend.backend() == "tensorflow":
            from tfbrats.networks import batch_norm  # the networks of other backends load no TensorFlow

            self._layer = batch_norm.BatchNormalization

    def __call__(self, x, name: str):
        return self._layer(
            momentum=_NORM_MOMENTUM, epsilon=_NORM_EPSILON, synchronized=self._synchronised, name=name
        )(x)


def conv(x, filters: int, size: int, name: str, rate: int = 1):
    """Convolution of a square, its taps `rate` pixels apart."""
    return layers.Conv2D(
        filters,
        size,
        padding="same",
        data_format="channels_last",
        dilation_rate=rate,
        kernel_initializer=_GLOROT,
        name=name,
    )(x)


def conv_norm_relu(x, filters: int, norm: Norm, name: str, rate: int = 1):
    """conv3x3-BN-ReLU."""
    x = norm(conv(x, filters, 3, f"{name}_conv", rate), f"{name}_bn")
    return layers.ReLU(name=name)(x)


def pair(x, filters: int, norm: Norm, name: str):
    """conv3x3-BN-ReLU twice."""
    return conv_norm_relu(conv_norm_relu(x, filters, norm, f"{name}_1"), filters, norm, f"{name}_2")


@keras.saving.register_keras_serializable("tfbrats", "Deconv2D")
class Deconv(layers.Conv2DTranspose):
    """Transposed convolution whose kernel is its stride, as the matrix product that it is.

    The squares do not overlap, so each is a linear map of one pixel: faster than the general kernel.
    """

    def call(self, inputs):
        x = _squares(inputs, ops.cast(self.kernel, self.compute_dtype))
        return x + ops.cast(self.bias, self.compute_dtype)


def _squares(x, kernel):
    """Each pixel of x [N, H, W, A] becomes a square of S x S of B channels; `kernel` is [S, S, B, A]."""
    stride, _, channels, own = kernel.shape
    n, height, width = ops.shape(x)[:3]
    matrix = ops.reshape(ops.transpose(kernel, (3, 0, 1, 2)), (own, -1))
    squares = ops.matmul(ops.reshape(x, (-1, own)), matrix)
    squares = ops.reshape(squares, (n, height, width, stride, stride * channels))
    rows = ops.transpose(squares, (0, 1, 3, 2, 4))
    return ops.reshape(rows, (n, height * stride, width * stride, channels))


def deconv(x, filters: int, stride: int, name: str):
    """Transposed convolution whose kernel is its stride: each input pixel becomes a square of its own."""
    options = {"data_format": "channels_last", "kernel_initializer": _GLOROT}
    return Deconv(filters, stride, strides=stride, name=name, **options)(x)


def pool(x, name: str):
    return layers.MaxPooling2D(2, data_format="channels_last", name=name)(x)


def concat(tensors, name: str):
    return layers.Concatenate(name=name)(tensors)


def residual(x, filters: int, norm: Norm, name: str, leading_norm: bool = True):
    """BN-ReLU-conv3x3-BN-ReLU-conv3x3 plus a 1x1-conv shortcut, summed; nothing after the sum.

    Args:
        leading_norm: False drops the first BN-ReLU, for a block that sees the z-scored image.
    """
    shortcut = conv(x, filters, 1, f"{name}_shortcut")
    if leading_norm:
        x = layers.ReLU(name=f"{name}_relu1")(norm(x, f"{name}_bn1"))
    x = conv(x, filters, 3, f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_relu2")(norm(x, f"{name}_bn2"))
    x = conv(x, filters, 3, f"{name}_conv2")
    return layers.Add(name=f"{name}_sum")([x, shortcut])


def head(x, classes: int, name: str):
    """1x1 convolution to class logits, in float32 whatever the precision of the rest."""
    options = {"data_format": "channels_last", "kernel_initializer": _GLOROT, "dtype": "float32"}
    x = layers.Conv2D(classes, 1, name=f"{name}_conv", **options)(x)
    return layers.Activation("linear", dtype="float32", name=name)(x)


@keras.saving.register_keras_serializable("tfbrats")
class AuxiliaryHead(layers.Layer):
    """Deeper features -> full-size logits: deconvolution to 16 channels, then 1x1 (paper A, Fig. 1).

    Nothing stands between the two, so together they are one linear map from a pixel to its square of logits:
    the kernels, which are learned apart, are multiplied, and the 16 channels at full size never exist. In
    float32 whatever the precision of the rest.

    Args:
        stride: of the deconvolution, and its kernel.
        classes: logits a pixel.
        trainable: as of any layer; a saved network says it.
    """

    def __init__(self, stride: int, classes: int, name: str, trainable: bool = True):
        super().__init__(dtype="float32", name=name, trainable=trainable)
        self._stride, self._classes = stride, classes
        options = {"data_format": "channels_last", "kernel_initializer": _GLOROT, "dtype": "float32"}
        self.deconv = Deconv(_AUXILIARY_CHANNELS, stride, strides=stride, name=f"{name}_deconv", **options)
        self.conv = layers.Conv2D(classes, 1, name=f"{name}_conv", **options)

    def build(self, input_shape):
        self.deconv.build(input_shape)
        self.conv.build((*input_shape[:-1], _AUXILIARY_CHANNELS))

    def call(self, inputs):
        pixelwise = self.conv.kernel[0, 0]  # [16, C]
        both = ops.matmul(ops.transpose(self.deconv.kernel, (0, 1, 3, 2)), pixelwise)  # [S, S, A, C]
        bias = ops.matmul(self.deconv.bias[None], pixelwise)[0] + self.conv.bias
        return _squares(inputs, ops.transpose(both, (0, 1, 3, 2))) + bias

    def get_config(self):
        """What makes the same layer again; its precision is always float32."""
        own = {"stride": self._stride, "classes": self._classes}
        return {**own, "name": self.name, "trainable": self.trainable}


def auxiliary_head(x, stride: int, classes: int, name: str):
    """Deeper features -> full-size logits."""
    return AuxiliaryHead(stride, classes, name)(x)
