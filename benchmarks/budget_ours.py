"""Our side of `budget.py`: as many steps as fit into the time, then the shipped commands to the segmentation.

The methods' schedules are in epochs, and a training that the end of the time meets on its first rung would be
no fair picture of them. So two short trainings tell the pace first, and an epoch gets as many steps as make
the whole schedule fit. Should that be wrong, SIGTERM ends the training when the time does, and the weights of
its last whole epoch count.
"""

import contextlib
import dataclasses
import math
import pathlib
import shutil
import subprocess
import time
from collections.abc import Sequence

from tfbrats import config_file
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.runs.folder import RunFolder
from tfbrats.terminal import command
from tfbrats.workflows.chain import Steps, exported_since, output_of

_PACED = (4, 20)  # steps an epoch of the two trainings that tell the pace, of two epochs each
_MARGIN = 0.06  # of the time, kept back: later steps were 3 to 4 % slower than the first twenty


# --- how many steps fit ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds of a training command: start + epochs * (epoch + steps * step).

    Attributes:
        start: libraries, tracing, checkpoints, end.
        epoch: what each epoch takes beside its steps, before its end: the stream's start.
        step: one step; of a config with three networks, one of each.
    """

    start: float
    epoch: float
    step: float


def pace_of(seconds: float, second_epochs: Sequence[float]) -> Pace:
    """The pace that explains the trainings `_PACED`.

    Args:
        seconds: of the longer one, from its process's start to its end.
        second_epochs: of each, what its second epoch took; tracing lies in the first.

    Raises:
        InputError: the longer one's took no longer: the machine is too busy to say.
    """
    few, many = _PACED
    short, long = second_epochs
    step = (long - short) / (many - few)
    if step <= 0:
        raise InputError(
            f"epochs of {few} and {many} steps took {short:.1f} s and {long:.1f} s: the machine is too "
            "busy to tell the pace. Run it when nothing else runs, or give --steps."
        )
    epoch = max(0.0, long - many * step)
    return Pace(max(0.0, seconds - 2 * (epoch + many * step)), epoch, step)


def steps_per_epoch(pace: Pace, epochs: int, seconds: float) -> int:
    """How many steps each of `epochs` may have to end within the seconds, a margin kept back.

    Raises:
        InputError: not one.
    """
    usable = (1 - _MARGIN) * seconds - pace.start
    found = math.floor((usable / epochs - pace.epoch) / pace.step)
    if found < 1:
        least = (pace.start + epochs * (pace.epoch + pace.step)) / (1 - _MARGIN) / 60
        raise InputError(
            f"{seconds / 60:g} minutes are not enough for {epochs} epochs of one step. Give at least "
            f"--minutes {math.ceil(10 * least) / 10:g}."
        )
    return found


# --- the contest ----------------------------------------------------------------------------------------


def train(
    config: str,
    overrides: Sequence[str],
    records: str,
    seconds: float,
    folder: pathlib.Path,
    chain: Steps,
    steps: int | None = None,
) -> dict:
    """Measures the pace, then trains for the time into folder/run.

    Args:
        config: name or path, `overrides` are put over it.
        records: the record set.
        folder: the contestant's; what an earlier try left of run, model and predictions is deleted.
        steps: of an epoch; None measures the pace for it.

    Returns:
        what is known of the training: network, parameters, steps, examples, seconds, and more.

    Raises:
        InputError: it failed, or the time is too short for a whole schedule.
    """
    for stale in ("run", "pace", "model", "predictions"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    trained = folder / "run"
    parameters = int(output_of("budget_ours", "--config", config, *overrides))
    training = ("tfbrats.train", "--config", config, *overrides, "--records", records)
    settings = config_file.load(config, [*overrides, f"run.dir={trained}"])
    epochs, pace = settings.train.epochs, None
    if steps is None:
        pace = _measured(chain, folder / "pace", *training)
        steps = steps_per_epoch(pace, epochs, seconds)
        print(
            f"    starting {pace.start:.1f} s, an epoch {pace.epoch:.1f} s, a step {pace.step:.3f} s: "
            f"{epochs} epochs of {steps} steps fit"
        )
    log, spent, stopped = _run_for(
        seconds, chain, *training, "--run", str(trained), f"train.steps_per_epoch={steps}"
    )
    rows = {region: RunFolder(trained).network(region).history for region in settings.regions}
    empty = [region or "the network" for region, found in rows.items() if not found]
    if empty:
        raise InputError(f"{' and '.join(empty)} had no whole epoch in {seconds:g} s. What it printed: {log}")
    counts = {region: sum(int(row["steps"]) for row in found) for region, found in rows.items()}
    return {
        "network": f"{settings.model.name}, width {settings.model.width}",
        "parameters": parameters,
        "steps": sum(counts.values()),
        "examples": sum(counts.values()) * settings.train.batch_size,
        "steps_by_network": counts,
        "epochs_by_network": {region: len(found) for region, found in rows.items()},
        "seconds": round(spent, 1),
        "stopped": stopped,
        "pace": dataclasses.asdict(pace) if pace else None,
    }


def _measured(chain: Steps, folder: pathlib.Path, *training: str) -> Pace:
    """The pace of a training, from short ones; once more where something came between."""
    chain.run("Load everything once: the first training is to find it in memory", training[0], "--help")

    def measured() -> Pace:
        shutil.rmtree(folder, ignore_errors=True)
        second_epochs = []
        for count in _PACED:
            sizes = ("train.epochs=2", f"train.steps_per_epoch={count}")
            place = str(folder / str(count))
            began = time.monotonic()
            chain.run(f"Pace: 2 x {count} steps", *training, "--run", place, *sizes)
            took = time.monotonic() - began
            run = RunFolder(place)
            timings = [run.network(region).timing for region in run.config.regions]
            second_epochs.append(sum(float(rows[1]["seconds"]) for rows in timings))
        return pace_of(took, second_epochs)

    try:
        return measured()
    except InputError as error:
        print(f"    {error}", flush=True)
    return measured()


def _run_for(seconds: float, chain: Steps, *training: str) -> tuple[pathlib.Path, float, bool]:
    """Runs a training until it ends or the time does -> its log, seconds, whether it was stopped."""
    began = time.monotonic()
    with chain.background(f"Train for {seconds / 60:g} minutes", *training) as (process, log):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        stopped = process.poll() is None  # by SIGTERM, where the block ends
    spent = time.monotonic() - began
    if process.returncode and not stopped:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise InputError(f"the training failed (exit code {process.returncode}):\n{tail}\nAll of it: {log}")
    print(f"    {spent:.0f} s{', stopped by SIGTERM' if stopped else ''}", flush=True)
    return log, spent, stopped


def predict(cases: str, case_id: str, folder: pathlib.Path, chain: Steps) -> None:
    """Exports what `train` left in folder/run, and segments a case into folder/predictions."""
    trained, model = str(folder / "run"), str(folder / "model")
    done = exported_since(trained, model)
    chain.run("Export", "tfbrats.export", "--run", trained, "--output", model, is_done=done)
    version = max(int(one.name) for one in pathlib.Path(model).glob("[0-9]*"))
    chain.run(
        f"Segment {case_id}",
        *("tfbrats.predict", "--model", files.join(model, str(version)), "--input", cases),
        *("--case", case_id, "--output", str(folder / "predictions"), "--overwrite"),
    )


def main(arguments: Sequence[str]) -> None:
    """Prints how many parameters a config's networks have; a process of its own, since it loads TensorFlow."""
    from tfbrats import networks

    parser = command.parser("budget_ours", __doc__)
    config_file.add_arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    config = config_file.load(options.config, options.overrides)
    print(sum(networks.build(config, region=region).count_params() for region in config.regions))


if __name__ == "__main__":
    command.run(main)
