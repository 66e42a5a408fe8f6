"""Batch normalisation by TensorFlow's fused kernel, which Keras 3 does not call: several times faster.

The layer is Keras' own in weights, names, moving averages and precision; only how it is computed differs. The
networks take it where Keras runs on TensorFlow, and Keras' own layer elsewhere.
"""

import keras
import tensorflow as tf
from keras import layers


@keras.saving.register_keras_serializable("tfbrats")
class BatchNormalization(layers.BatchNormalization):
    """keras.layers.BatchNormalization over the channels of [N, H, W, C] or [N, D, H, W, C].

    Moments are float32 whatever the precision of the tensor; the output has the layer's compute dtype. The
    moving variance is that of the batch itself, divided by n as in Keras. (PyTorch's is divided by n - 1.)

    With `synchronized`, on several replicas, the moments are those of the global batch. Keras would take
    E(x^2) - E(x)^2, which loses digits where the mean is large beside the deviation; here the squares are of
    distances from the mean, so that the numbers do not depend on how many replicas share the batch. Without it
    each replica normalises by its own part of the batch. The moving averages are those of the global batch all
    the same: as Keras has them each replica would keep its own, and no two of them would be one network.
    """

    def call(self, inputs, training=None, mask=None):
        """Raises NotImplementedError with a mask: the kernel knows none."""
        if mask is not None:
            raise NotImplementedError(f"{self.name}: the fused batch normalisation takes no mask.")
        x = tf.cast(inputs, self.compute_dtype)
        if x.dtype == tf.bfloat16 and x.shape[-1] % 16:
            # oneDNN's bfloat16 kernel is ten times slower unless the channels are a multiple of 16.
            x = tf.cast(x, tf.float32)
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        moving_mean = tf.convert_to_tensor(self.moving_mean)
        moving_variance = tf.convert_to_tensor(self.moving_variance)
        if not (training and self.trainable):
            y = _normalised(x, gamma, beta, self.epsilon, moving_mean, moving_variance)
            return tf.cast(y, self.compute_dtype)
        if self.synchronized and _replicas() > 1:
            y, mean, variance = _over_replicas(x, gamma, beta, self.epsilon)
        else:
            y, mean, variance = _over_batch(x, gamma, beta, self.epsilon)
            if _replicas() > 1:
                mean, variance, _ = _of_all(tf.stop_gradient(mean), tf.stop_gradient(variance), _pixels(x))
        self.moving_mean.assign(moving_mean * self.momentum + mean * (1.0 - self.momentum))
        self.moving_variance.assign(moving_variance * self.momentum + variance * (1.0 - self.momentum))
        return tf.cast(y, self.compute_dtype)


def _replicas() -> int:
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def _as_images(x):
    """The kernel takes images: the planes of a volume are as good as more of them."""
    return x if x.shape.rank == 4 else tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], axis=0))


def _like(images, x):
    return images if x.shape.rank == 4 else tf.ensure_shape(tf.reshape(images, tf.shape(x)), x.shape)


def _pixels(x):
    return tf.cast(tf.size(x), tf.float32) / x.shape[-1]


def _normalised(x, gamma, beta, epsilon: float, mean, variance):
    """Normalises x with the moments given."""
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=_as_images(x),
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    )
    return _like(y, x)


def _over_batch(x, gamma, beta, epsilon: float):
    """Normalises x by its own moments, and gives them too: float32 [C] each."""
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=_as_images(x), scale=gamma, offset=beta, mean=(), variance=(), epsilon=epsilon, is_training=True
    )
    pixels = _pixels(x)
    return _like(y, x), mean, variance * (pixels - 1.0) / pixels  # the kernel divides by n - 1


def _over_replicas(x, gamma, beta, epsilon: float):
    """The same with the moments of all replicas' x; in the replica context.

    Two sums over the replicas forward, one backward, of a few numbers a channel.
    """

    @tf.custom_gradient
    def normalise(x, gamma, beta):
        # The kernel's own moments, its output unused: tf.nn.moments takes up to eight times as long on a CPU.
        _, mean_here, variance_here = _over_batch(x, gamma, beta, epsilon)
        mean, variance, pixels = _of_all(mean_here, variance_here, _pixels(x))

        def gradients(dy, *_):
            # As if the moments were constants; then what is missing: they depend on every x of every replica.
            direct, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=_as_images(dy),
                x=_as_images(x),
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=(),
                epsilon=epsilon,
                is_training=False,
            )
            of_gamma, of_beta = tf.split(_summed(tf.concat([dgamma, dbeta], axis=0)) / pixels, 2)
            slope = gamma * tf.math.rsqrt(variance + epsilon)
            through_moments = _normalised(x, -slope * of_gamma, -slope * of_beta, epsilon, mean, variance)
            return _like(direct, x) + through_moments, dgamma, dbeta

        return (_normalised(x, gamma, beta, epsilon, mean, variance), mean, variance), gradients

    return normalise(x, gamma, beta)


def _of_all(mean_here, variance_here, here):
    """Moments of one replica's pixels -> mean, variance and number of those of all replicas together."""
    sums = _summed(tf.concat([here * mean_here, [here]], axis=0))
    mean, pixels = sums[:-1] / sums[-1], sums[-1]
    variance = _summed(here * (variance_here + tf.square(mean_here - mean))) / pixels
    return mean, variance, pixels


def _summed(tensor):
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensor)
