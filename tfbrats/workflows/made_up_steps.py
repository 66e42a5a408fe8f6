"""A few training steps of a network on made-up batches, in this process: seconds and peak memory.

What `tfbrats.workflows.trial` does. Reads no data, writes nothing, throws the network away.
"""

import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil
import tensorflow as tf

from tfbrats.config import Config
from tfbrats.distribution import devices
from tfbrats.labels import LwsRegion, Tissue
from tfbrats.networks import keras_settings
from tfbrats.terminal.wording import in_units
from tfbrats.training.recipes import recipe_for
from tfbrats.workflows.batch_size import Trial

# --- made-up batches ------------------------------------------------------------------------------------


def _noise(*shape: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).standard_normal(shape, np.float32))


def _slices(config: Config, count: int) -> dict:
    """A batch as `slice_stream.training` yields it, half of it tumour."""
    shape = (count, *config.input_shape)
    region = np.full(shape, LwsRegion.S2, np.uint8)
    region[:, ::2] = LwsRegion.S3
    return {
        "image": _noise(*shape, len(config.data.modalities)),
        "label": tf.constant(np.where(region == LwsRegion.S3, Tissue.ET, 0), tf.uint8),
        "region": tf.constant(region),
        "draws": tf.constant(np.random.default_rng(0).random(shape, np.float32)),
        "valid": tf.ones(count),
    }


def _patches(config: Config, count: int) -> dict:
    """A batch as `patch_stream.training` yields it, half of it tumour."""
    shape = (count, *config.input_shape)
    target = np.zeros(shape, np.uint8)
    target[:, ::2] = 1
    x1 = tf.cast(_noise(*shape, len(config.data.modalities)), tf.float16)
    half = {"half": x1} if config.scales > 1 else {}
    return {"x1": x1, **half, "target": tf.constant(target), "valid": tf.ones(count)}


_MADE_UP = {"slices": _slices, "patches": _patches}


# --- measures -------------------------------------------------------------------------------------------


def _seconds(step: Callable, steps: int) -> float:
    """Of one call, the first of all left out: it compiles."""
    step()
    took = []
    for _ in range(steps):
        started = time.monotonic()
        step()
        took.append(time.monotonic() - started)
    return float(np.median(took))


def measure(config: Config, region: str, batch_size: int, steps: int, start_bytes: int = 0) -> Trial:
    """Trains a network of this config for a few steps, after one that compiles, on one device.

    Args:
        region: whose network; "" where there is but one.
        start_bytes: what this process held when it started.
    """
    keras_settings.check_backend()
    recipe, batch = recipe_for(config, None, region), _MADE_UP[config.unit](config, batch_size)
    with keras_settings.ours(config.train.precision):
        network, optimizer = recipe.network(1), recipe.optimizer()
        optimizer.build(network.trainable_variables)
    train_step = recipe.train_step(tf.distribute.get_strategy(), network, optimizer)
    forward = tf.function(lambda image: network(image, training=False), autograph=False)
    schedule = recipe.schedule(0)
    trained = _seconds(lambda: float(train_step(batch, schedule)["loss"]), steps)
    image = _noise(batch_size, *config.input_shape, network.inputs[0].shape[-1])  # not there while it trains
    passed = _seconds(lambda: [logits.numpy() for logits in tf.nest.flatten(forward(image))], min(steps, 3))
    (place, peak_bytes), *_ = devices.peak_bytes().items()  # of several GPUs it runs on the first
    on_gpu = place.startswith("GPU")
    numbers = sum(int(np.prod(v.shape)) for v in optimizer.variables)
    return Trial(
        region=region,
        device="GPU" if on_gpu else "CPU",
        parameters=network.count_params(),
        batch_size=batch_size,
        steps=steps,
        train_seconds=trained / batch_size,
        forward_seconds=passed / batch_size,
        slots=round(numbers / sum(int(np.prod(v.shape)) for v in network.trainable_variables)),
        peak_bytes=peak_bytes if on_gpu else peak_bytes - start_bytes,
    )


def _end_beyond(limit_bytes: int) -> None:
    """Ends this process as soon as it holds more: before the system ends one, perhaps somebody else's."""

    def watch():
        while psutil.Process().memory_info().rss <= limit_bytes:
            time.sleep(0.05)
        print(f"out of memory: the limit was {in_units(limit_bytes)}", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def trials(config: Config, batch_size: int, steps: int, memory_bytes: int | None = None) -> list[Trial]:
    """`measure` of each network of a config.

    Args:
        memory_bytes: on a CPU this process ends beyond so many over what it has taken so far.
    """
    start_bytes = psutil.Process().memory_info().rss
    if memory_bytes and not tf.config.list_physical_devices("GPU"):
        _end_beyond(start_bytes + memory_bytes)
    with devices.tf32(config.train.tf32):
        return [measure(config, region, batch_size, steps, start_bytes) for region in config.regions]
