"""Our side of `real.py`: the shipped commands, from records to segmentations, each training in its time.

A method's schedule is in epochs. Three short trainings tell the pace once for a row; an epoch gets as many
steps as make the whole ladder fit, and so it stays when a training is killed and goes on. What a training
has used is noted each second. One that is over its time gets SIGTERM, and its last whole epoch counts.
"""

import dataclasses
import os
import pathlib
import resource
import shutil
import time
from collections.abc import Callable, Sequence

import budget_ours
from budget_ours import Pace

from tfbrats import config_file
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.runs.folder import RunFolder
from tfbrats.tuning import tuned_file
from tfbrats.workflows.chain import Steps, exported_since, output_of

NOTES, _USED = "trained.json", "used.json"
_FEW, _MANY, _EPOCHS = 4, 64, 3  # steps and epochs of the trainings that tell the pace
_LEAST_SECONDS = 1e-3  # of a step: two trainings that differ by less differ by chance


@dataclasses.dataclass(frozen=True)
class Clock:
    """What counts as the time of a training: the machine's, or CPU seconds over the cores."""

    which: str
    cores: int

    def of_children(self) -> float:
        """Of the processes that we started and that have ended; of the machine's clock, now."""
        if self.which == "wall":
            return time.monotonic()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (used.ru_utime + used.ru_stime) / self.cores

    def of(self, process: int) -> Callable[[], float]:
        """() -> seconds that a process that was just started has used."""
        began = time.monotonic()
        if self.which == "wall":
            return lambda: time.monotonic() - began
        return lambda: _cpu_seconds(process) / self.cores


def _cpu_seconds(process: int) -> float:
    """User and system time of a process, its ended children's too, by the Linux kernel's /proc."""
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Training:
    """What `tfbrats train` is told.

    Attributes:
        config: name or path; `overrides` are put over it.
        records: the record set.
    """

    config: str
    overrides: tuple[str, ...]
    records: str

    def command(self, run: pathlib.Path, *more: str) -> tuple[str, ...]:
        of_config = ("--config", self.config, *self.overrides, *more)
        return ("tfbrats.train", *of_config, "--records", self.records, "--run", str(run))


# --- how many steps fit ---------------------------------------------------------------------------------


def pace_of(few: float, many: float, epochs: float) -> Pace:
    """The pace that explains the seconds of one epoch of _FEW steps, one of _MANY, and _EPOCHS of _FEW."""
    step = max((many - few) / (_MANY - _FEW), _LEAST_SECONDS)
    epoch = max(0.0, (epochs - few) / (_EPOCHS - 1) - _FEW * step)
    return Pace(max(0.0, few - epoch - _FEW * step), epoch, step)


def pace(training: Training, note: pathlib.Path, chain: Steps, clock: Clock) -> Pace:
    """Measured once, kept in `note`."""
    if not note.exists():
        took = []
        for epochs, steps in ((1, _FEW), (1, _MANY), (_EPOCHS, _FEW)):
            place = note.with_suffix("") / f"{epochs}x{steps}"
            shutil.rmtree(place, ignore_errors=True)
            sizes = (f"train.epochs={epochs}", f"train.steps_per_epoch={steps}")
            began = clock.of_children()
            chain.run(f"Pace: {epochs} x {steps} steps", *training.command(place, *sizes))
            took.append(clock.of_children() - began)
        files.write_json(note, dataclasses.asdict(pace_of(*took)))
        shutil.rmtree(note.with_suffix(""))
    return Pace(**files.read_json(note))


# --- a training -----------------------------------------------------------------------------------------


def train(
    training: Training, seconds: float, folder: pathlib.Path, chain: Steps, clock: Clock, known: Pace
) -> None:
    """Trains for the time into folder/run, or goes on with it, and writes NOTES.

    Raises:
        InputError: it failed, or the time is too short for a whole schedule.
    """
    if (folder / NOTES).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    settings = config_file.load(training.config, [*training.overrides])
    epochs = settings.train.epochs
    steps = budget_ours.steps_per_epoch(known, epochs, seconds)
    print(
        f"    starting {known.start:.1f} s, an epoch {known.epoch:.1f} s, a step {known.step:.3f} s: "
        f"{epochs} epochs of {steps} steps fit"
    )
    run = folder / "run"
    spent, stopped = _run_for(seconds, folder, chain, clock, known, training.command(run, _steps(steps)))
    rows = {region: RunFolder(run).network(region).history for region in settings.regions}
    if empty := [region or "the network" for region, found in rows.items() if not found]:
        raise InputError(f"{' and '.join(empty)} had no whole epoch in {seconds:g} s.")
    count = sum(int(row["steps"]) for found in rows.values() for row in found)
    found = {
        "network": f"{settings.model.name}, width {settings.model.width}",
        "parameters": int(output_of("budget_ours", "--config", training.config, *training.overrides)),
        "steps": count,
        "examples": count * settings.train.batch_size,
        "epochs_by_network": {region: len(found) for region, found in rows.items()},
        "seconds": round(spent, 1),
        "stopped": stopped,
        "pace": dataclasses.asdict(known),
    }
    files.write_json(folder / NOTES, found)


def _steps(count: int) -> str:
    return f"train.steps_per_epoch={count}"


def _run_for(
    seconds: float, folder: pathlib.Path, chain: Steps, clock: Clock, known: Pace, command: Sequence[str]
) -> tuple[float, bool]:
    """Runs a training until it ends or the time does -> seconds of all its tries, whether it was stopped."""
    note = folder / _USED
    before = files.read_json(note) if note.exists() else []
    limit = seconds + len(before) * known.start  # a start that a kill makes needful is not the method's
    with chain.background(f"Train for {seconds / 60:g} minutes", *command) as (process, log):
        since, used = clock.of(process.pid), 0.0
        while process.poll() is None and sum(before) + used < limit:
            used = since()
            files.write_json(note, [*before, round(used, 1)])
            time.sleep(0.5)
        stopped = process.poll() is None  # by SIGTERM, where the block ends
    if process.returncode and not stopped:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise InputError(f"the training failed (exit code {process.returncode}):\n{tail}\nAll of it: {log}")
    spent = sum(before) + used
    print(f"    {spent:.0f} s{', stopped by SIGTERM' if stopped else ''}", flush=True)
    return spent, stopped


# --- its model ------------------------------------------------------------------------------------------


def export(runs: Sequence[pathlib.Path], folder: pathlib.Path, chain: Steps, *more: str) -> str:
    """Exports a run, or several as one model, into folder/model -> the version's path."""
    model = str(folder / "model")
    which = ("--run", str(runs[0])) if len(runs) == 1 else ("--runs", *map(str, runs))
    done = all(exported_since(run, model) for run in runs)
    chain.run("Export", "tfbrats.export", *which, "--output", model, *more, is_done=done)
    return files.join(model, str(max(int(one.name) for one in pathlib.Path(model).glob("[0-9]*"))))


def predict(model: str, cases: str, ids: Sequence[str], folder: pathlib.Path, chain: Steps) -> None:
    """Segments cases into folder/predictions; what is there already stays."""
    of_cases = [text for one in ids for text in ("--case", one)]
    chain.run(
        f"Segment {', '.join(ids)}",
        *("tfbrats.predict", "--model", model, "--input", cases, *of_cases),
        *("--output", str(folder / "predictions")),
    )


def tune(
    runs: Sequence[pathlib.Path],
    own: pathlib.Path,
    cases: str,
    ids: Sequence[str],
    folder: pathlib.Path,
    chain: Steps,
) -> None:
    """Chooses for the folds' runs together, on cases that are not scored; folder/tuned.json goes into `own`.

    Each case is answered by the run that has not learned from it. The folds choose one after the other, each
    over what the last has written into the runs.
    """
    kept = folder / "tuned.json"
    chain.run(
        f"Tune on {', '.join(ids)}",
        *("tfbrats.tune", "--run", *map(str, runs), "--input", cases, "--cases", ",".join(ids), "--keep"),
        is_done=kept.exists(),
    )
    chosen = pathlib.Path(tuned_file.path_in(own))
    if kept.exists():
        files.write_json(chosen, files.read_json(kept))
    else:
        files.write_json(kept, files.read_json(chosen))
