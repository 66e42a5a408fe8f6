"""Inside a replica: sums over all replicas, the update and one answer on overflow, counts of what overlaps."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf


def sum_over_replicas(tensors: Sequence) -> list:
    """Each tensor summed over all replicas; in the replica context."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors))


class SGD(keras.optimizers.SGD):
    """Keras' own in variables, names and formula; a weight's update is one operation where Keras makes five.

    Both optimizers: without Nesterov's or AMSGrad's variant, which nobody here asks for.
    """

    def update_step(self, gradient, variable, learning_rate):
        if not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self.momentums[self._get_variable_index(variable)]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=momentum.value.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.constant(self.momentum, variable.dtype),
        )


class Adam(keras.optimizers.Adam):
    """As `SGD`: one operation where Keras makes fourteen.

    1 - beta2 is a difference of float32, which Keras takes in float64: with 0.9999 an update is up to 0.02 %
    from Keras', and nearer to the exact one, since the moments and their correction then have one beta2.
    """

    def update_step(self, gradient, variable, learning_rate):
        here, dtype = self._get_variable_index(variable), variable.dtype
        step = tf.cast(self.iterations.value + 1, dtype)
        beta1, beta2 = tf.constant(self.beta_1, dtype), tf.constant(self.beta_2, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[here].value.handle,
            v=self._velocities[here].value.handle,
            beta1_power=beta1**step,
            beta2_power=beta2**step,
            lr=tf.cast(learning_rate, dtype),
            beta1=beta1,
            beta2=beta2,
            epsilon=tf.constant(self.epsilon, dtype),
            grad=gradient,
        )


def apply_gradients(optimizer: keras.optimizers.Optimizer, gradients: Sequence, network: keras.Model) -> None:
    """The optimizer's update from this replica's share of the gradients; in the replica context."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # Keras asks one replica alone whether its gradients are finite: give all the same answer.
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        (unsound,) = sum_over_replicas([tf.cast(~finite, tf.float32)])
        gradients = [g + tf.where(unsound > 0, float("inf"), 0.0) for g in gradients]
    optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))


def summed(strategy: tf.distribute.Strategy, on_replica: Callable) -> Callable:
    """A step that sums over all replicas what `on_replica` makes of its share of a batch."""

    @tf.function(autograph=False)
    def step(batch):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(on_replica, (batch,)), axis=None)

    return step


def overlap(predicted, reference) -> list:
    """What `dice` wants of two bool masks of one shape: voxels in both, in each of them; float32."""
    masks = (predicted & reference, predicted, reference)
    return [count(mask) for mask in masks]


def count(mask):
    """Voxels that are True; float32."""
    return tf.math.count_nonzero(mask, dtype=tf.float32)


def dice(both: float, predicted: float, reference: float) -> float:
    """Dice from counts of voxels; 1 where both masks are empty."""
    return 2 * both / (predicted + reference) if predicted + reference else 1.0


def overlap_of_cases(predicted, reference, place, cases: int):
    """`overlap` of each case: float32 [cases, 3].

    Args:
        predicted, reference: bool [N, ...], a slice or a patch each.
        place: int32 [N], which of the cases each is of.
    """
    each = [
        tf.math.count_nonzero(mask, axis=list(range(1, mask.shape.rank)), dtype=tf.float32)
        for mask in (predicted & reference, predicted, reference)
    ]
    return tf.math.unsorted_segment_sum(tf.stack(each, axis=-1), place, cases)


def mean_dice(counts: Sequence[float]) -> float:
    """The mean of the cases' Dice, from `overlap_of_cases` summed over all batches, flat."""
    triples = [counts[n : n + 3] for n in range(0, len(counts), 3)]
    return sum(dice(*map(float, triple)) for triple in triples) / len(triples)


def half_squared_norm(kernels: Sequence):
    """Eq. 4's psi: half the sum of squares of the kernels, so that its gradient is the kernels themselves.

    By an operation of TensorFlow's own, whose gradient is one product: squares and sums cost a step 3 % more.
    """
    return tf.add_n([tf.nn.l2_loss(tf.cast(kernel, tf.float32)) for kernel in kernels])


def kernels(network: keras.Model) -> list:
    """The weights of its convolutions, without biases and normalisation: what decays."""
    return [v.value for v in network.trainable_variables if v.path.endswith("kernel")]
