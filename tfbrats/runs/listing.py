"""Which runs there are, how far each has come, and how well it does. No TensorFlow.

`tfbrats runs` prints it. The scores are those of the best epoch (`train.select`), whose weights
are exported; they are of slices (paper A) or patches (paper B), not of whole cases.
"""

import csv
import dataclasses
import datetime
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tfbrats import config_file
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files, paths, stores
from tfbrats.runs.folder import CONFIG, TUNED, NetworkFolder, RunFolder, best_row, is_over
from tfbrats.terminal import verbs
from tfbrats.terminal.wording import columns, counted

_NO_RUN = f"no run (no {CONFIG})"
_DEPTH = 4  # runs/GROUP/GROUP/NAME
_PACES = ("slices_per_second", "patches_per_second")

# --- what is known of a run -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Network:
    """How far one network of a run has come.

    Attributes:
        region: of paper B's networks; "" of paper A's.
        epochs: that have ended.
        of: that the config wants.
        over: whether nothing is left to do: all epochs, or stopped by a rise of the validation loss.
        begun: whether there is a checkpoint; without one the first epoch would start from nothing.
        best_epoch: by the run's `train.select`; None without validation.
        validation_loss: at it.
        dice: region -> at it.
        per_second: examples, the median epoch's; None where that was not kept.
        unit: of the examples, "slices" or "patches".
        seconds_per_epoch: likewise.
        written: the latest file of it; None before the first.
    """

    region: str
    epochs: int
    of: int
    over: bool
    begun: bool
    best_epoch: int | None
    validation_loss: float | None
    dice: Mapping[str, float]
    per_second: float | None
    unit: str
    seconds_per_epoch: float | None
    written: datetime.datetime | None

    @property
    def state(self) -> str:
        """E.g. "epoch 3 of 50, never validated"."""
        if self.over:
            state = "finished" if self.epochs >= self.of else f"stopped at {self.epochs} of {self.of}"
        elif self.epochs:
            state = f"epoch {self.epochs} of {self.of}"
        else:
            state = "in its first epoch" if self.begun else "not begun"
        return f"{state}, never validated" if self.epochs and self.best_epoch is None else state


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder: what was asked for, and a `Network` for each that it trains.

    Attributes:
        note: what keeps this version from going on with it; "" if nothing does.
        begun_from: the run or model whose weights it began with, by name; "" if it began from nothing.
        is_tuned: whether something was chosen for its weights (`tfbrats tune`).
    """

    folder: str
    name: str
    config: Config
    networks: Sequence[Network]
    note: str = ""
    begun_from: str = ""
    is_tuned: bool = False

    @property
    def method(self) -> str:
        """The network by the papers' names, e.g. "cun_lws"."""
        return method(self.config)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train."""
        return all(network.over for network in self.networks)

    @property
    def score(self) -> tuple[int, float]:
        """How many regions have a Dice, and their mean: the higher, the further up in the list."""
        scores = [dice for network in self.networks for dice in network.dice.values()]
        return len(scores), statistics.fmean(scores) if scores else 0.0


def method(config: Config) -> str:
    """What is trained, by the papers' names, e.g. "cun_lws"."""
    return config.model.name + ("_lws" if config.weighted_sampling else "")


def read(folder: str | os.PathLike, name: str = "") -> Run:
    """What a run folder tells.

    Raises:
        InputError: there is no run, or its config or a history cannot be read.
    """
    run, note = RunFolder(folder), ""
    try:
        config = run.config
    except InputError as error:
        config = _of_another_version(run)
        if config is None:
            raise
        note = f"has another version's config ({_one_line(error, folder)})"
    # The folder may have been moved: what it holds is here, whatever run.dir says.
    networks = [_network(run.network(region), region, config) for region in config.whole.regions]
    return Run(run.path, name or files.name(folder), config, networks, note, _begun_from(run), _is_tuned(run))


def _is_tuned(run: RunFolder) -> bool:
    """Whether tuned.json holds a choice; export looks at it closely."""
    path = files.join(run.path, TUNED)
    content = files.read_json(path) if files.exists(path) else None
    return isinstance(content, Mapping) and bool(content.get("tuned"))


def _begun_from(run: RunFolder) -> str:
    content = run.begun_from
    if not content:
        return ""
    version = content.get("version")
    return f"{content['kind']} {content['name']}" + (f" version {version}" if version is not None else "")


def _of_another_version(run: RunFolder) -> Config | None:
    """A config whose keys are not all of this version's, with the shipped one's for those it lacks."""
    try:
        content = yaml.safe_load(files.read_bytes(run.config_path))
        shipped = config_file.load(f"{content['model']['name']}.yaml").model_dump(mode="json")
        return config_file.from_mapping(_laid_over(shipped, content), "the config")
    except (InputError, KeyError, TypeError, yaml.YAMLError):
        return None


def _laid_over(known: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _laid_over(value, content.get(key) or {}) if isinstance(value, dict) else content.get(key, value)
        for key, value in known.items()
    }


def _one_line(error: InputError, folder: str | os.PathLike) -> str:
    """What is wrong, without the folder's name, which stands before it."""
    first, *more = (line.strip() for line in str(error).splitlines())
    return f"{first} {'; '.join(more)}".strip().removeprefix(os.fspath(folder)).lstrip("/: ")


def _network(home: NetworkFolder, region: str, config: Config) -> Network:
    try:
        rows = home.history
        for row in rows:
            int(row["epoch"])
        best = best_row(rows, config.train.select)
        dice = _dice(best, region) if best else {}
        over = is_over(rows, config)
        pace = _pace(home.timing or rows)
        best_epoch = int(best["epoch"]) if best else None
        loss = float(best["validation_loss"]) if best else None
    except (csv.Error, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{home.history_path}: damaged ({type(error).__name__}: {error}).") from error
    last = files.join(home.checkpoints_path("last"), "checkpoint")
    return Network(
        region=region,
        epochs=len(rows),
        of=config.train.epochs,
        over=over,
        begun=files.exists(last),
        best_epoch=best_epoch,
        validation_loss=loss,
        dice=dice,
        **pace,
        unit="patches" if region else "slices",
        written=_latest([home.history_path, home.timing_path, last]),
    )


def _dice(row: Mapping[str, str], region: str) -> dict[str, float]:
    columns = {region: "dice"} if region else {name: f"dice_{name.lower()}" for name in REGIONS}
    return {name: float(row[column]) for name, column in columns.items() if row.get(column)}


def _pace(rows: Sequence[Mapping[str, str]]) -> dict[str, float | None]:
    """The median epoch's, from timing.csv; before there was one, the history had these columns."""
    paces = [float(row[name]) for row in rows for name in _PACES if row.get(name)]
    seconds = [float(row["seconds"]) for row in rows if row.get("seconds")]
    return {
        "per_second": statistics.median(paces) if paces else None,
        "seconds_per_epoch": statistics.median(seconds) if seconds else None,
    }


def _latest(paths: Sequence[str]) -> datetime.datetime | None:
    times = []
    for path in paths:
        fs, inner = stores.located(path)
        if fs.exists(inner):
            modified = fs.modified(inner)
            times.append(modified if modified.tzinfo else modified.replace(tzinfo=datetime.UTC))
    return max(times, default=None)


# --- which there are ------------------------------------------------------------------------------------


def _run_folders(folder: str) -> tuple[set[str], set[str]]:
    """Names, relative to a folder, of the runs under it, and of its subfolders that hold none."""
    fs, top = stores.located(folder)
    of_runs, others = set(), set()
    # Below a run nothing is looked at: its checkpoints may be many. What cannot be read is no run.
    for here, subfolders, names in fs.walk(top, _DEPTH + 1, on_error="omit", detail=True):
        relative = here.rstrip("/").removeprefix(top.rstrip("/")).strip("/")
        if CONFIG in names:
            subfolders.clear()
            of_runs.add(relative)
        elif relative and "/" not in relative:
            others.add(relative)
        for hidden in [name for name in subfolders if name.startswith(".")]:
            del subfolders[hidden]
    return of_runs, others - {relative.split("/")[0] for relative in of_runs}


def find(folder: str | os.PathLike) -> tuple[list[Run], dict[str, str]]:
    """The runs under a folder, best first, and why its other folders are not among them (name -> reason).

    Raises:
        InputError: there is no such folder, or nothing in it is a run.
    """
    folder = os.fspath(folder)
    advice = "Train one with tfbrats train, or name the folder that holds yours."
    if not files.is_folder(folder):
        raise InputError(f"{folder}: no such folder, so no runs. {advice}")
    of_runs, foreign = _run_folders(folder)
    runs, others = [], {}
    for name in sorted(of_runs):
        path = files.join(folder, name) if name else folder
        try:
            runs.append(read(path, name or files.name(paths.absolute(folder))))
        except InputError as error:
            others[name] = _one_line(error, path)
    others |= dict.fromkeys(sorted(foreign), _NO_RUN)
    if not runs:
        reasons = "\n  ".join(notes([], others))
        raise InputError(f"{folder}: no runs here. {advice}{reasons}")
    return sorted(runs, key=lambda run: (-run.score[0], -run.score[1], run.name)), others


# --- on screen ------------------------------------------------------------------------------------------

_HEADER = ("run", "network", "state", "best", "validation loss", *REGIONS, "pace", "written", "records")
_LAYOUT = ("<", "  <", "  <", *(("  >",) * (2 + len(REGIONS))), "  <", "  <", "  <")  # numbers to the right


def as_text(runs: Sequence[Run], now: datetime.datetime) -> str:
    """A line for each network; the run's name and records stand in the first of its lines."""
    rows = [_HEADER]
    for run in runs:
        for number, network in enumerate(run.networks):
            first = number == 0
            rows.append(
                (
                    run.name if first else "",
                    f"{run.method} {network.region}".strip(),
                    network.state + _left(network),
                    _or_dash(network.best_epoch, ""),
                    _or_dash(network.validation_loss, ".4g"),
                    *(_or_dash(network.dice.get(region), ".3f") for region in REGIONS),
                    _or_dash(network.per_second, ".3g", f" {network.unit}/s"),
                    _ago(now - network.written) if network.written else "-",
                    run.config.data.records if first else "",
                )
            )
    return "\n".join(line.rstrip() for line in columns(rows, _LAYOUT))


def notes(runs: Sequence[Run], others: Mapping[str, str]) -> list[str]:
    """What to say below the table, after an empty line; nothing where there is nothing to say."""
    lines = [f"{run.name}: {run.note}" for run in runs if run.note]
    lines += [f"{run.name}: began from the {run.begun_from}" for run in runs if run.begun_from]
    lines += [f"{run.name}: tuned; export takes what was chosen, or --plain" for run in runs if run.is_tuned]
    lines += [f"{name}: {reason}" for name, reason in others.items() if reason != _NO_RUN]
    foreign = [name for name, reason in others.items() if reason == _NO_RUN]
    lines += [f"{_NO_RUN}: {', '.join(foreign)}"] if foreign else []
    return ["", *lines] if lines else []


def following(runs: Sequence[Run]) -> list[str]:
    """What comes next: the best finished run is exported, the newest unfinished one is gone on with.

    Runs that this version cannot read are neither.
    """
    commands = []
    if best := next((run for run in runs if run.is_over and not run.note), None):
        model = f"models/{best.name.rpartition('/')[2]}"
        commands.append(verbs.command_line("tfbrats.export", "--run", best.folder, "--output", model))
    never = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    unfinished = [run for run in runs if not run.is_over and not run.note]
    if unfinished:
        newest = max(unfinished, key=lambda run: max(network.written or never for network in run.networks))
        arguments = ("--config", RunFolder(newest.folder).config_path, "--run", newest.folder)
        commands.append(verbs.command_line("tfbrats.train", *arguments))
    return commands


def _or_dash(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None or math.isnan(value) else f"{value:{form}}{unit}"


def _left(network: Network) -> str:
    if network.over or network.seconds_per_epoch is None:
        return ""
    hours = (network.of - network.epochs) * network.seconds_per_epoch / 3600
    return f", {hours:.0f} h to go" if hours >= 10 else f", {hours:.1f} h to go"


def _ago(since: datetime.timedelta) -> str:
    seconds = max(since.total_seconds(), 0)
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{counted(int(seconds // size), name)} ago"
    return "just now"


def as_json(runs: Sequence[Run], others: Mapping[str, str]) -> dict[str, Any]:
    """The same for programs; times in UTC."""
    listed = []
    for run in runs:
        networks = [
            {
                **dataclasses.asdict(network),
                "state": network.state,
                "written": network.written and network.written.astimezone(datetime.UTC).isoformat(),
            }
            for network in run.networks
        ]
        listed.append(
            {
                "folder": run.folder,
                "name": run.name,
                "network": run.method,
                "width": run.config.model.width,
                "records": run.config.data.records,
                "mean_dice": run.score[1] if run.score[0] else None,
                "note": run.note,
                "begun_from": run.begun_from,
                "tuned": run.is_tuned,
                "networks": networks,
            }
        )
    return {"runs": listed, "not_listed": dict(others)}
