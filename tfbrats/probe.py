"""How long a config's training and prediction take on this machine, from a few steps on made-up data.

    python -m tfbrats.probe --config cun.yaml
    python -m tfbrats.probe --config msm.yaml model.width=16 --json

Trains each network for a few steps and throws it away: seconds an example, no scores. Reads no data, writes
nothing. `tfbrats.reproduce` multiplies.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfbrats import command, models
from tfbrats import config as configs
from tfbrats.config import Config, PatchConfig
from tfbrats.examples import LwsRegion
from tfbrats.labels import Tissue
from tfbrats.recipes import PatchRecipe, SliceRecipe

_MOST_EXAMPLES = 2  # a step, so that paper B's batch of 24 patches need not fit into a laptop
_STEPS = 3  # after one that compiles


@dataclasses.dataclass(frozen=True)
class Probe:
    """What one network costs.

    Attributes:
        region: whose network, where each region has its own; else "".
        batch_size: examples in a measured step; a larger batch is at most as slow an example.
        train_seconds: an example, forward, backward and update.
        forward_seconds: an example, forward alone.
        slots: numbers that the optimizer keeps for each parameter.
    """

    region: str
    parameters: int
    batch_size: int
    train_seconds: float
    forward_seconds: float
    slots: int


def _slices(config: Config, count: int) -> dict:
    """A batch as `data.training` yields it, half of it tumour."""
    rng = np.random.default_rng(0)
    shape = (count, *config.records.slice_shape)
    region = np.full(shape, LwsRegion.S2, np.uint8)
    region[:, ::2] = LwsRegion.S3
    return {
        "image": tf.constant(rng.normal(size=(*shape, len(config.data.modalities))), tf.float32),
        "label": tf.constant(np.where(region == LwsRegion.S3, Tissue.ET, 0), tf.uint8),
        "region": tf.constant(region),
        "draws": tf.constant(rng.random(shape), tf.float32),
        "valid": tf.ones(count),
    }


def _patches(config: PatchConfig, count: int) -> dict:
    """A batch as `patch_data.training` yields it, half of it tumour."""
    rng = np.random.default_rng(0)
    shape = (count, *(config.sampling.patch_size,) * 3)
    channels = models.scales(config.model.name) * len(config.data.modalities)
    target = np.zeros(shape, np.uint8)
    target[:, ::2] = 1
    return {
        "patch": tf.constant(rng.normal(size=(*shape, channels)), tf.float32),
        "target": tf.constant(target),
        "valid": tf.ones(count),
    }


def _seconds(step: Callable) -> float:
    """Of one call, the first of all left out: it compiles."""
    step()
    took = []
    for _ in range(_STEPS):
        started = time.monotonic()
        step()
        took.append(time.monotonic() - started)
    return float(np.median(took))


def probe(config: Config) -> list[Probe]:
    """Times every network of a config on one device of this machine, one after the other."""
    return [_probe(config, region) for region in (config.regions if isinstance(config, PatchConfig) else ("",))]


def _probe(config: Config, region: str) -> Probe:
    count = min(config.train.batch_size, _MOST_EXAMPLES)
    keras.mixed_precision.set_global_policy(config.train.precision)
    if isinstance(config, PatchConfig):
        recipe, batch = PatchRecipe(config, None, region), _patches(config, count)
    else:
        recipe, batch = SliceRecipe(config, None), _slices(config, count)
    network, optimizer = recipe.network(1), recipe.optimizer()
    if config.train.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    train_step = recipe.train_step(tf.distribute.get_strategy(), network, optimizer)
    forward = tf.function(lambda image: network(image, training=False))
    schedule, image = recipe.schedule(0), batch["image" if "image" in batch else "patch"]
    trained = _seconds(lambda: float(train_step(batch, schedule)["loss"]))
    passed = _seconds(lambda: [one.numpy() for one in tf.nest.flatten(forward(image))])
    numbers = sum(int(np.prod(v.shape)) for v in optimizer.variables)
    slots = round(numbers / sum(int(np.prod(v.shape)) for v in network.trainable_variables))
    return Probe(region, network.count_params(), count, trained / count, passed / count, slots)


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.probe", __doc__)
    configs.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    options = parser.parse_intermixed_args(arguments)
    config = configs.load(options.config, options.overrides)
    found = probe(config)
    if options.json:
        print(json.dumps([dataclasses.asdict(one) for one in found]))
        return
    unit = PatchRecipe.unit if isinstance(config, PatchConfig) else SliceRecipe.unit
    for one in found:
        print(
            f"{' '.join(filter(None, (config.model.name, one.region)))}: {one.parameters:,} parameters; "
            f"training {1 / one.train_seconds:.2f} {unit}/s, forward {1 / one.forward_seconds:.2f} {unit}/s "
            f"(steps of {one.batch_size})"
        )


if __name__ == "__main__":
    command.run(main)
