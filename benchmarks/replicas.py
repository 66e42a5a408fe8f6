"""Does the first step depend on how many replicas, or workers, share the batch? It must not.

    python benchmarks/replicas.py
    python benchmarks/replicas.py --only cun --only "msm ET" --replicas 1 2 4 --workers 2 3
    python benchmarks/replicas.py --batch-norm per_replica --only unet2d

Every network, small, takes one step from the same weights on the same made-up global batch: on one device, on
2 and 4 logical devices of this CPU (MirroredStrategy), and with --workers on as many processes of this machine
(MultiWorkerMirroredStrategy). The replicas' shares differ: more or less tumour, and the last example is filling
that counts nothing, so that a mean of ratios would not be the ratio over the global batch.

Prints how far loss and gradient are from those of one device: the loss relative to itself, the gradient of all
variables together as the norm of the difference by its norm. Beside them the worst variable by itself (by 1e-3
of the whole gradient's norm where its own is less: a bias before a batch normalisation has no gradient but
rounding). "same, other order" is the floor of all three: one device, the batch's examples in reverse.
"""

import argparse
import contextlib
import json
import os
import pathlib
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from tfbrats import config_file
from tfbrats.config import Config, PatchConfig
from tfbrats.distribution import devices
from tfbrats.labels import LwsRegion, Tissue
from tfbrats.training.recipes import recipe_for

LOSS_TOLERANCE = 1e-5  # float32 has about seven digits; the sums run over some ten thousand pixels
# Small and deep, the networks carry rounding far: one device's batch in another order gives 3e-3 already (drn).
# Batch normalisation of each replica by itself gives 1e-1 and more.
GRADIENT_TOLERANCE = 5e-3

_SLICES = ("records.slice_shape=[48, 48]", "model.width=4", "train.weight_decay=0.01")
_PATCHES = ("sampling.patch_size=16", "cascade.stride=8", "model.width=4")
# name: config, region, overrides
NETWORKS = {
    "cun": ("cun.yaml", "", _SLICES),
    "cun_lws": ("cun_lws.yaml", "", _SLICES),
    "unet2d": ("unet2d.yaml", "", _SLICES),
    "bfcn": ("bfcn.yaml", "", _SLICES),
    "drn": ("drn.yaml", "", _SLICES),
    "msm WT": ("msm.yaml", "WT", _PATCHES),
    "msm ET": ("msm.yaml", "ET", _PATCHES),
    "msm_noaspp": ("msm_noaspp.yaml", "WT", _PATCHES),
    "unet3d": ("unet3d.yaml", "WT", _PATCHES),
}


def load(name: str, batch_norm: str) -> tuple[Config, str]:
    file, region, overrides = NETWORKS[name]
    return config_file.load(file, [*overrides, f"model.batch_norm={batch_norm}"]), region


# --- the batch ------------------------------------------------------------------------------------------


def made_up(config: Config, count: int) -> dict[str, np.ndarray]:
    """A batch as `slice_stream.training` or `patch_stream.training` yields it; the last one is filling."""
    rng = np.random.default_rng(0)
    valid = np.ones(count, np.float32)
    valid[-1] = 0
    if isinstance(config, PatchConfig):
        side = config.sampling.patch_size
        target = np.zeros((count, side, side, side), np.uint8)
        for n in range(count):
            target[n, : 1 + n * side // count] = 1
        channels = len(config.data.modalities)
        names = ("x1", "half") if config.scales > 1 else ("x1",)
        images = {name: rng.normal(size=(*target.shape, channels)) + target[..., None] for name in names}
        half_precision = {name: image.astype(np.float16) for name, image in images.items()}
        return {**half_precision, "target": target, "valid": valid}
    shape = (count, *config.records.slice_shape)
    region = np.full(shape, LwsRegion.S2, np.uint8)
    label = np.zeros(shape, np.uint8)
    region[:, :4] = LwsRegion.S1
    for n in range(count):
        edge = 8 + n * (shape[1] - 12) // count
        region[n, 8:edge], region[n, edge : edge + 2] = LwsRegion.S3, LwsRegion.S4
        label[n, 8:edge, ::2], label[n, 8:edge, 1::2] = Tissue.ET, Tissue.ED
    image = rng.normal(size=(*shape, len(config.data.modalities))) + label[..., None]
    draws = rng.random(shape, np.float32)
    return {
        "image": image.astype(np.float32),
        "label": label,
        "region": region,
        "draws": draws,
        "valid": valid,
    }


# --- a step ---------------------------------------------------------------------------------------------


def first_step(
    name: str, batch_norm: str, count: int, strategy, reverse: bool = False
) -> dict[str, np.ndarray]:
    """Loss and gradients (of the whole loss, summed over the replicas) by variable.

    Args:
        count: examples in the global batch.
        reverse: the batch's last example first.
    """
    config, region = load(name, batch_norm)
    recipe = recipe_for(config, None, region)
    batch = made_up(config, count)
    if reverse:
        batch = {key: value[::-1] for key, value in batch.items()}
    replicas = strategy.num_replicas_in_sync
    keras.utils.set_random_seed(0)
    with strategy.scope():
        network = recipe.network(replicas)
        # Its velocity after one step at rate 1 from rest is minus the gradient, to the bit.
        optimizer = keras.optimizers.SGD(1.0, momentum=0.9)
        optimizer.build(network.trainable_variables)

    def share(context):
        n = context.replica_id_in_sync_group
        part = slice(n * count // replicas, (n + 1) * count // replicas)
        return {key: tf.constant(value[part]) for key, value in batch.items()}

    shares = strategy.experimental_distribute_values_from_function(share)
    found = recipe.train_step(strategy, network, optimizer)(shares, recipe.schedule(0))
    velocities = zip(network.trainable_variables, optimizer.momentums, strict=True)
    gradients = {v.path: -keras.ops.convert_to_numpy(m) for v, m in velocities}
    return {"loss": np.array(float(found["loss"])), **gradients}


def distances(found: dict, wanted: dict) -> tuple[float, float, float, str]:
    """Of the loss; of the whole gradient; the largest of a variable's, and whose."""
    loss = abs(float(found["loss"] / wanted["loss"]) - 1)
    gradients = {name: value.astype(np.float64) for name, value in wanted.items() if name != "loss"}
    differences = {name: np.linalg.norm(found[name] - value) for name, value in gradients.items()}
    whole = np.sqrt(sum(np.sum(np.square(value)) for value in gradients.values()))
    worst, whose = 0.0, ""
    for name, value in gradients.items():
        distance = differences[name] / max(np.linalg.norm(value), 1e-3 * whole)
        worst, whose = max((worst, whose), (float(distance), name))
    return loss, float(np.linalg.norm(list(differences.values())) / whole), worst, whose


# --- several devices, several processes -----------------------------------------------------------------


def shared(names: Sequence[str], kind: str, count: int, options: argparse.Namespace) -> dict[str, dict]:
    """`first_step` of each network on `count` "replicas" of one process, or in as many "workers".

    In processes of their own: a process can have one strategy over several devices, TensorFlow numbers their
    groups alike.
    """
    environments = [dict(os.environ)]
    if kind == "workers":
        with contextlib.ExitStack() as sockets:
            ports = [sockets.enter_context(socket.socket()) for _ in range(count)]
            for port in ports:
                port.bind(("127.0.0.1", 0))
            addresses = [f"127.0.0.1:{port.getsockname()[1]}" for port in ports]
        clusters = [
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": n}} for n in range(count)
        ]
        environments = [{**os.environ, "TF_CONFIG": json.dumps(cluster)} for cluster in clusters]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "found.pickle"
        arguments = [sys.executable, __file__, "--child", str(path), "--replicas", str(count)]
        arguments += ["--batch", str(options.batch), "--batch-norm", options.batch_norm]
        arguments += [text for name in names for text in ("--only", name)]
        started = [subprocess.Popen(arguments, env=environment) for environment in environments]
        if any([one.wait() for one in started]):
            raise SystemExit(f"{count} {kind}: failed; the error is above.")
        return pickle.loads(path.read_bytes())


def _as_child(options: argparse.Namespace) -> None:
    if not devices.cluster():
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * options.replicas[0],
        )
    strategy = devices.strategy_for("auto")
    found = {name: first_step(name, options.batch_norm, options.batch, strategy) for name in options.only}
    if devices.is_chief(strategy):
        pathlib.Path(options.child).write_bytes(pickle.dumps(found))
    devices.sum_over_workers(strategy, [1.0])  # all have come here


# --- the table ------------------------------------------------------------------------------------------


def table(names: Sequence[str], options: argparse.Namespace) -> list[dict]:
    """A line for each network and way of sharing: how far the step is from one device's."""
    alone = tf.distribute.OneDeviceStrategy("/cpu:0")
    one = {name: first_step(name, options.batch_norm, options.batch, alone) for name in names}
    found = {
        "same, other order": {
            name: first_step(name, options.batch_norm, options.batch, alone, reverse=True) for name in names
        }
    }
    for kind in ("replicas", "workers"):
        for count in getattr(options, kind):
            found[f"{count} {kind}"] = shared(names, kind, count, options)
    rows = []
    for name in names:
        for way, steps in found.items():
            loss, gradient, worst, whose = distances(steps[name], one[name])
            same = loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE
            rows.append(
                {
                    "network": name,
                    "shared_by": way,
                    "loss": loss,
                    "gradient": gradient,
                    "worst": worst,
                    "of": whose,
                    "same": same,
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(NETWORKS), help="this network (again for more)")
    parser.add_argument("--replicas", type=int, nargs="*", default=[2, 4], metavar="N")
    parser.add_argument("--workers", type=int, nargs="*", default=[], metavar="N")
    parser.add_argument("--batch", type=int, default=12, help="examples in the global batch (default 12)")
    parser.add_argument("--batch-norm", choices=("synchronised", "per_replica"), default="synchronised")
    parser.add_argument("--json", help="write the table there too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        _as_child(options)
        return 0
    if uneven := [n for n in (*options.replicas, *options.workers) if options.batch % n]:
        parser.error(f"--batch {options.batch}: cannot be shared by {uneven[0]}")
    rows = table(options.only or list(NETWORKS), options)
    print(
        f"one step on {options.batch} examples in float32, batch normalisation {options.batch_norm}\nthe same: "
        f"loss within {LOSS_TOLERANCE:g}, gradient within {GRADIENT_TOLERANCE:g} of one device's\n"
        f"{'network':<12}{'shared by':<20}{'loss':>10}{'gradient':>10}  {'':<10}{'worst variable':>14}"
    )
    for row in rows:
        verdict = "same" if row["same"] else "DIFFERENT"
        print(
            f"{row['network']:<12}{row['shared_by']:<20}{row['loss']:>10.1e}{row['gradient']:>10.1e}  "
            f"{verdict:<10}{row['worst']:>14.1e}  {row['of']}"
        )
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1))
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
