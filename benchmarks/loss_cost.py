"""What paper A's loss costs: a step of cun_lws with all heads beside one of cun without its auxiliary heads.

    python benchmarks/loss_cost.py
    python benchmarks/loss_cost.py --precision mixed_bfloat16 --rounds 10 model.width=16 train.batch_size=4

Both networks, and cun with all heads as a third, are in one process and take steps in turn on one batch that is
made up (half of it tumour), so that what else runs on the machine hits them alike. Printed are the medians of
CPU seconds over all threads and of wall time, and their ratios to the plain network. Aim: at most 1.15.
"""

import json
import statistics
import time
from collections.abc import Sequence

import keras
import tensorflow as tf
from step_jobs import made_up

from tfbrats import config_file, networks
from tfbrats.networks import cun
from tfbrats.terminal import command
from tfbrats.training import slice_step

ROWS = {  # name: config, auxiliary heads
    "plain": ("cun.yaml", False),
    "cun": ("cun.yaml", True),
    "cun_lws": ("cun_lws.yaml", True),
}


def _steps(name: str, overrides: Sequence[str], precision: str):
    """A step of one row: () -> nothing."""
    shipped, heads = ROWS[name]
    config = config_file.load(shipped, [*overrides, f"train.precision={precision}"])
    keras.utils.set_random_seed(config.train.seed)
    network = networks.build(config)
    if not heads:
        network = cun.branches_only(network)
    optimizer = keras.optimizers.SGD(config.train.learning_rate, config.train.momentum)
    optimizer.build(network.trainable_variables)
    take = slice_step.train_step(tf.distribute.get_strategy(), network, optimizer, config)
    batch = {key: tf.constant(value) for key, value in made_up(config).items()}
    omega = tf.constant(config.train.omega)
    return lambda: float(take(batch, omega)["loss"])


def measure(overrides: Sequence[str], precision: str, rounds: int) -> dict[str, dict[str, float]]:
    """Row -> median "cpu_seconds" and "seconds" of a step, and their ratios to "plain"'s."""
    keras.mixed_precision.set_global_policy(precision)
    rows = {name: _steps(name, overrides, precision) for name in ROWS}
    for one_step in rows.values():  # tracing, and the first step's allocations
        one_step()
        one_step()
    took = {name: [] for name in rows}
    for _ in range(rounds):
        for name, one_step in rows.items():
            cpu, wall = time.process_time(), time.monotonic()
            one_step()
            took[name].append((time.process_time() - cpu, time.monotonic() - wall))
    found = {}
    for name, pairs in took.items():
        cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
        found[name] = {"cpu_seconds": cpu, "seconds": wall}
    plain = dict(found["plain"])
    for row in found.values():
        row["cpu_ratio"] = row["cpu_seconds"] / plain["cpu_seconds"]
        row["ratio"] = row["seconds"] / plain["seconds"]
    return found


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("benchmarks/loss_cost.py", __doc__)
    parser.add_argument("overrides", nargs="*", help="as of a config, e.g. model.width=16")
    parser.add_argument("--precision", default="float32", choices=("float32", "mixed_bfloat16"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    options = parser.parse_intermixed_args(arguments)
    found = measure(options.overrides, options.precision, options.rounds)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'':10}{'CPU s a step':>14}{'ratio':>8}{'s a step':>12}{'ratio':>8}")
    for name, row in found.items():
        print(
            f"{name:10}{row['cpu_seconds']:>14.3f}{row['cpu_ratio']:>8.2f}{row['seconds']:>12.3f}{row['ratio']:>8.2f}"
        )


if __name__ == "__main__":
    command.run(main)
