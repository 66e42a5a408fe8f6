"""The building blocks of paper B's networks, in three dimensions. Keras layers alone: any Keras backend.

Every layer is named, so that a summary, a checkpoint or a graph reads like the table.
"""

import keras
from keras import layers, ops

from tfbrats.networks import keras_settings
from tfbrats.networks.blocks import Norm

_GLOROT = "glorot_uniform"  # paper B: "Xavier initialization"; [ours]: its uniform form


def conv(x, filters: int, size: int, name: str, rate: int = 1):
    """Convolution of a cube, its taps `rate` voxels apart."""
    return layers.Conv3D(
        filters,
        size,
        padding="same",
        data_format="channels_last",
        dilation_rate=rate,
        kernel_initializer=_GLOROT,
        name=name,
    )(x)


def conv_norm_relu(x, filters: int, norm: Norm, name: str, rate: int = 1):
    """conv3x3x3-BN-ReLU."""
    x = norm(conv(x, filters, 3, f"{name}_conv", rate), f"{name}_bn")
    return layers.ReLU(name=name)(x)


def pair(x, filters: int, norm: Norm, name: str):
    """conv3x3x3-BN-ReLU twice."""
    return conv_norm_relu(conv_norm_relu(x, filters, norm, f"{name}_1"), filters, norm, f"{name}_2")


@keras.saving.register_keras_serializable("tfbrats", "MaxPooling3D")
class MaxPooling(layers.MaxPooling3D):
    """Max-pooling; of float16 in float32 where there is no GPU, which leaves the values as they are."""

    def call(self, inputs):
        if self.compute_dtype != "float16" or keras_settings.has_gpu():
            return super().call(inputs)
        # TensorFlow 2.21 has no float16 MaxPool3D on a CPU.
        return ops.cast(super().call(ops.cast(inputs, "float32")), "float16")


def pool(x, name: str):
    """Max-pooling of 2 x 2 x 2."""
    return MaxPooling(2, data_format="channels_last", name=name)(x)


@keras.saving.register_keras_serializable("tfbrats", "Deconv3D")
class Deconv(layers.Conv3DTranspose):
    """Transposed convolution whose kernel is its stride, as the matrix product that it is.

    The cubes do not overlap, so each is a linear map of one voxel: faster than the general kernel.
    """

    def call(self, inputs):
        kernel = ops.cast(self.kernel, self.compute_dtype)  # [S, S, S, B, A]
        stride, _, _, channels, own = kernel.shape
        n, *size = ops.shape(inputs)[:4]
        matrix = ops.reshape(ops.transpose(kernel, (4, 0, 1, 2, 3)), (own, -1))
        cubes = ops.matmul(ops.reshape(inputs, (-1, own)), matrix)
        cubes = ops.reshape(cubes, (n, *size, stride, stride, stride * channels))
        x = ops.transpose(cubes, (0, 1, 4, 2, 5, 3, 6))
        x = ops.reshape(x, (n, *(stride * voxels for voxels in size), channels))
        return x + ops.cast(self.bias, self.compute_dtype)


def deconv(x, filters: int, name: str):
    """Transposed convolution, kernel and stride 2: each voxel becomes eight of its own."""
    options = {"data_format": "channels_last", "kernel_initializer": _GLOROT}
    return Deconv(filters, 2, strides=2, name=name, **options)(x)


def head(x, name: str):
    """1x1x1 convolution to one logit, in float32 whatever the precision of the rest."""
    options = {"data_format": "channels_last", "kernel_initializer": _GLOROT, "dtype": "float32"}
    x = layers.Conv3D(1, 1, name=f"{name}_conv", **options)(x)
    return layers.Activation("linear", dtype="float32", name=name)(x)
