"""Our reader alone: what each of its stages costs, and what a training step waits for. Run by `input.py`.

Stages: the pipeline is built up one stage after the other, each form run over the same number of examples; a
stage costs what its form takes more than the one before, in CPU seconds over all threads. The forms alternate,
and the median of the rounds counts.

Step: the loop of `training`, with the config's own network: a step on a batch that lies ready, the reader alone
and both together on the same cores. What counts is the share of time spent in `next(batches)`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence

import tensorflow as tf

from tfbrats import config_file
from tfbrats.batches import patch_stream, slice_stream
from tfbrats.batches.augment import rotate_and_flip
from tfbrats.batches.stream import Share, parse, serialized
from tfbrats.config import Config
from tfbrats.records import schema
from tfbrats.records.manifest import Manifest, read_manifest
from tfbrats.training.recipes import recipe_for

_REGION = "WT"


def _slice_forms(manifest: Manifest, folder: str, config: Config, batch: int) -> dict:
    """Stage -> the pipeline up to it, and the examples in each of its elements."""
    settings, canvas = config.data, config.records.slice_shape
    shards = range(len(manifest.shards_of("train")))
    read = serialized(manifest, folder, "train", shards)
    read = read.shuffle(settings.shuffle_buffer, seed=0).repeat()

    def parsed(record):
        example = parse(schema.SLICES, record)
        return {**example, "image": tf.ensure_shape(example["image"], [None, None, len(settings.modalities)])}

    def turned(record):
        seed = tf.constant([0, 1])
        return rotate_and_flip(parsed(record), canvas, seed, settings.rotation_degrees, settings.flip)

    def mapped(function):
        return read.map(function, num_parallel_calls=slice_stream.MAPS_AT_ONCE, deterministic=True)

    return {
        "read": (read, 1),
        "parse": (mapped(parsed), 1),
        "turn": (mapped(turned), 1),
        "draw, batch": (slice_stream.training(manifest, config, 0, Share(batch)), batch),
    }


def _patch_forms(manifest: Manifest, folder: str, config: Config, batch: int) -> dict:
    shards = range(len(manifest.shards_of("train", _REGION)))
    read = serialized(manifest, folder, "train", shards, _REGION)
    whole = (patch_stream.training(manifest, config, _REGION, 0, Share(batch)), batch)
    if manifest.kind == "patches":
        read = read.shuffle(config.data.shuffle_buffer, seed=0).repeat()
        parsed = patch_stream._stored(read)
        forms = {"read": (read, 1), "parse": (parsed, 1)}
    else:
        read, per_read = read.repeat(), config.data.patches_per_read
        parsed = read.map(lambda record: parse(patch_stream._OF_VOLUME, record))
        cut = patch_stream._fresh(read, config, _REGION, manifest.count("train"), 0, None)
        forms = {"read": (read, per_read), "parse": (parsed, per_read), "cut": (cut, 1)}
    return {**forms, "batch": whole}


@tf.function
def _drain(iterator, elements) -> None:
    """Takes so many elements, in the runtime: no Python between them."""
    for _ in tf.range(elements):
        next(iterator)


def _settle() -> None:
    """Waits until no thread works any more."""
    before = -1.0
    while time.process_time() - before > 0.005:
        before = time.process_time()
        time.sleep(0.15)


def stages(folder: str, config: Config, batch: int, examples: int, rounds: int) -> dict[str, float]:
    """CPU seconds an example, by stage."""
    manifest = read_manifest(folder)
    forms = (_slice_forms if manifest.kind == "slices" else _patch_forms)(manifest, folder, config, batch)
    # Each goes on where it stopped, with full buffers before and after.
    streams = {stage: (iter(dataset), each) for stage, (dataset, each) in forms.items()}
    found: dict[str, list[float]] = {stage: [] for stage in forms}
    for _ in range(rounds + 1):
        for stage, (iterator, each) in streams.items():
            started, elements = time.process_time(), -(-examples // each)
            _drain(iterator, tf.constant(elements))
            _settle()
            found[stage].append((time.process_time() - started) / (elements * each))
    upto = [statistics.median(taken[1:]) for taken in found.values()]  # the first one traces and fills buffers
    return {
        stage: max(0.0, now - before) for stage, now, before in zip(forms, upto, [0.0, *upto], strict=False)
    }


def step(folder: str, config: Config, steps: int) -> dict[str, float]:
    """Seconds of a step alone, a batch alone, a step of the loop, and of it those spent in `next`."""
    manifest = read_manifest(folder)
    recipe = recipe_for(config, manifest, "" if manifest.kind == "slices" else _REGION)
    strategy = tf.distribute.get_strategy()
    network, optimizer = recipe.network(1), recipe.optimizer()
    optimizer.build(network.trainable_variables)
    train_step, schedule = recipe.train_step(strategy, network, optimizer), recipe.schedule(0)

    def stream():
        return iter(recipe.training(0, Share(config.train.batch_size)))

    def timed(run) -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    batches = stream()
    ready = next(batches)
    float(train_step(ready, schedule)["loss"])  # traces
    alone = [timed(lambda: float(train_step(ready, schedule)["loss"])) for _ in range(max(2, steps // 2))]
    reader = [timed(lambda: next(batches)) for _ in range(8 + steps)][8:]  # without those that lay ready
    batches, waited, looped = stream(), [], []
    for _ in range(2 + steps):
        started = time.perf_counter()
        batch = next(batches)
        waited.append(time.perf_counter() - started)
        float(train_step(batch, schedule)["loss"])
        looped.append(time.perf_counter() - started)
    return {
        "step": statistics.median(alone),
        "reader": statistics.mean(reader),
        "loop": statistics.mean(looped[2:]),  # the first two fill the buffers
        "wait": statistics.mean(waited[2:]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("job", choices=("stages", "step"))
    parser.add_argument("--records", required=True, help="record set")
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--examples", type=int, default=500, help="a round of stages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    config = config_file.load(options.config, [*options.overrides, f"data.records={options.records}"])
    if options.job == "stages":
        found = stages(options.records, config, options.batch, options.examples, options.rounds)
    else:
        found = step(options.records, config, options.steps)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
