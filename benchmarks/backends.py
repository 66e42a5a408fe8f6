"""The networks and losses on whichever engine Keras runs on: one forward pass, one loss, its gradients.

    python benchmarks/backends.py
    KERAS_BACKEND=jax python benchmarks/backends.py --networks cun,msm --width 8

Weights and inputs are the same everywhere, so that two engines print the same numbers to their precision. For
JAX an environment without TensorFlow is enough. Training itself (`tfbrats train`) is TensorFlow's alone.
"""

import time
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfbrats import config_file, networks
from tfbrats.config import PatchConfig
from tfbrats.errors import InputError
from tfbrats.networks import losses
from tfbrats.terminal import command

NETWORKS = "cun,unet2d,bfcn,drn,msm,msm_noaspp,unet3d"


def _with_known_weights(network: keras.Model) -> keras.Model:
    """Kernels drawn by their number, so that each engine has the same; the rest is as it starts."""
    for number, variable in enumerate(network.trainable_variables):
        if len(variable.shape) > 1:
            scale = np.sqrt(2 / np.prod(variable.shape[:-1]))
            drawn = np.random.default_rng(number).standard_normal(variable.shape, np.float32)
            variable.assign(drawn * scale.astype(np.float32))
    return network


def _loss_of_slices(outputs: dict, tissues: np.ndarray):
    """The sum of all heads' cross-entropies, every pixel alike."""
    whole, parts = losses.targets(tissues)
    everywhere = np.ones(tissues.shape, np.float32)
    total = 0.0
    for logits in outputs.values():
        classes = whole if logits.shape[-1] == 2 else parts
        entropy = losses.weighted_cross_entropy_sum(logits, classes, everywhere)
        total = total + losses.ratio(entropy, everywhere.sum())
    return total


def _loss_of_patches(outputs: dict, target: np.ndarray):
    counting = np.ones(len(target), np.float32)
    return losses.binary_cross_entropy_sum(outputs["logits"][..., 0], target, counting) / target.size


def _gradients(network: keras.Model, loss_of: Callable, image: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The loss in training mode, and its gradients by the trainable variables.

    Raises:
        InputError: an engine that is not looked at here.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_of(network(image, training=True))
        found = tape.gradient(loss, network.trainable_variables)
    elif keras.backend.backend() == "jax":
        import jax

        fixed = [variable.value for variable in network.non_trainable_variables]

        def whole(values):
            outputs, _ = network.stateless_call(values, fixed, image, training=True)
            return loss_of(outputs)

        loss, found = jax.jit(jax.value_and_grad(whole))([v.value for v in network.trainable_variables])
    else:
        raise InputError(f"KERAS_BACKEND={keras.backend.backend()}: take tensorflow or jax.")
    return float(loss), [np.asarray(one) for one in found]


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("benchmarks/backends.py", __doc__)
    parser.add_argument("--networks", default=NETWORKS, help=f"default: {NETWORKS}")
    parser.add_argument("--width", type=int, default=4)
    options = parser.parse_args(arguments)
    print(f"{'network':12}{'engine':12}{'loss':>12}{'gradients':>12}{'mean |logit|':>14}{'seconds':>9}")
    for name in options.networks.split(","):
        settings = config_file.load(f"{name}.yaml", [f"model.width={options.width}"])
        of_patches, rng = isinstance(settings, PatchConfig), np.random.default_rng(0)
        network = _with_known_weights(networks.build(settings, region="ET" if of_patches else ""))
        shape = (2, 32, 32, 32) if of_patches else (2, 48, 48)
        image = rng.standard_normal((*shape, network.inputs[0].shape[-1]), np.float32)
        label = rng.integers(0, 2 if of_patches else 4, shape).astype(np.uint8)
        loss_of = _loss_of_patches if of_patches else _loss_of_slices
        outputs = network(image, training=False)
        logit = np.mean([np.abs(np.asarray(one)).mean() for one in outputs.values()])
        started = time.monotonic()
        loss, found = _gradients(network, lambda out, of=loss_of, label=label: of(out, label), image)
        norm = np.sqrt(sum(np.square(one, dtype=np.float64).sum() for one in found))
        took = time.monotonic() - started
        print(
            f"{name:12}{keras.backend.backend():12}{loss:12.6f}{norm:12.6f}{logit:14.6f}{took:9.1f}", flush=True
        )


if __name__ == "__main__":
    command.run(main)
