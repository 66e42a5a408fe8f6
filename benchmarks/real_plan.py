"""What `real.py` measures: rows, folds, and the settings of each network at the size of a few minutes."""

import dataclasses
import pathlib
import shlex
from collections.abc import Mapping, Sequence

from real_ours import Clock

from tfbrats import config_file
from tfbrats.cases import dealing
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.terminal import wording

PARTS = 3  # of a fold's other patients: as many members has an ensemble
OURS, PEERS = ("cun_lws", "msm"), ("segresnet", "nnunet")
KINDS = ("", "_ensembled", "_tuned")
ROWS = (*(f"{name}{kind}" for name in OURS for kind in KINDS), *PEERS)
# Why these: docs/why/benchmarks.md, the trials.
OVERRIDES = {
    "cun_lws": (
        *("model.width=8", "records.slice_shape=[160,192]", "train.batch_size=8", "train.learning_rate=0.01"),
        *("train.epochs=10", "train.ladder_epochs=6", "train.ladder_factor=0.1"),
        *("train.precision=mixed_bfloat16", "train.checkpoint_minutes=1", "data.intensity_change=0.3"),
    ),
    "msm": (
        *("model.width=16", "records.kind=volumes", "train.batch_size=4", "train.learning_rate=0.001"),
        *("train.epochs=5", "data.shuffle_buffer=40", "train.precision=mixed_bfloat16"),
        *("train.checkpoint_minutes=1", "data.intensity_change=0.3"),
    ),
}
SIZES = {"segresnet": {"patch": 96, "width": 16}, "nnunet": {"patch": 64, "width": 16, "stages": 5}}
# --rehearse: all of it at a size of no use.
REHEARSED = {
    "cun_lws": ("train.epochs=2", "train.ladder_epochs=1", "train.ladder_factor=0.3", "model.width=2"),
    "msm": ("records.kind=volumes", "train.epochs=2", "model.width=2"),
}
REHEARSED_SIZES = {"segresnet": {"patch": 32, "width": 8}, "nnunet": {"patch": 32, "width": 4, "stages": 3}}
_OF_RECORDS = ("records.", "preprocess.", "data.modalities=", "lws.contour_width_mm=", "region=")


# --- the plan -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: as it stands in the table, and as a folder.
        network: of `OURS`, or of `PEERS`.
        kind: "" for plain, "ensembled" or "tuned".
        overrides: over the network's own settings.
    """

    name: str
    network: str
    kind: str = ""
    overrides: tuple[str, ...] = ()

    @property
    def is_validated(self) -> bool:
        """Whether it chooses its epoch by validation cases."""
        return any(key.startswith("train.select") for key in self.overrides)

    @property
    def folder(self) -> str:
        return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in self.name)


@dataclasses.dataclass(frozen=True)
class Fold:
    """Whom a fold scores, and the parts of all others."""

    number: int
    scored: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]

    def training(self, part: int | None) -> list[str]:
        """What a network learns that is to leave out one part; None: it leaves out none."""
        return sorted(one for number, ids in enumerate(self.parts) if number != part for one in ids)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on what, for how long, and where all of it goes.

    Attributes:
        cases: the data set, a folder of links.
        configs: of our networks: name or path.
        overrides: of our networks.
        sizes: of the peers.
    """

    output: pathlib.Path
    cases: str
    folds: tuple[Fold, ...]
    seconds: float
    clock: Clock
    configs: Mapping[str, str]
    overrides: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, Mapping[str, int]]

    def part(self, fold: Fold, part: int | None) -> pathlib.Path:
        """Where the trainings lie that leave out one part, or none."""
        return self.output / f"fold-{fold.number}" / ("whole" if part is None else f"without-{part}")


def dealt(cases: str, count: int) -> tuple[Fold, ...]:
    """Folds and their parts, by patient and seed 0."""
    dataset = layouts.find(cases)
    patient_of = {one.case_id: one.patient_id for one in dataset.cases}
    folds = []
    for number, split in enumerate(dealing.folds(dataset, count, 0)):
        patients = sorted({patient_of[one] for one in split["train"]})
        if len(patients) < PARTS:
            raise InputError(
                f"{cases}: {wording.counted(len(patients), 'patient')} to train on; {PARTS} at least."
            )
        of_parts = [patients[part::PARTS] for part in range(PARTS)]
        parts = tuple(tuple(one for one in split["train"] if patient_of[one] in chosen) for chosen in of_parts)
        folds.append(Fold(number, tuple(split["validation"]), parts))
    return tuple(folds)


def linked(folders: Sequence[pathlib.Path], target: pathlib.Path) -> str:
    """The cases of several folders as one data set of links."""
    target.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        for one in sorted(folder.iterdir()):
            link = target / one.name
            if one.is_dir() and not link.is_symlink():
                link.symlink_to(one.resolve())
    return str(target)


def rows_of(chosen: Sequence[str], overrides: Sequence[str], plan: Plan) -> list[Row]:
    """The rows of the table, in its order; each --overrides of the networks whose config knows its keys."""
    rows = []
    for name in ROWS:
        network = next(one for one in (*OURS, *PEERS) if name.startswith(one))
        if name in chosen:
            rows.append(Row(name, network, name.removeprefix(network).removeprefix("_")))
    for text in overrides:
        keys = tuple(shlex.split(text))
        if stray := [key for key in keys if key.startswith(_OF_RECORDS)]:
            raise InputError(f"--overrides {stray[0]}: it changes the records, which all rows share.")
        taking, refused = [], None
        for network in (name for name in OURS if name in chosen):
            try:
                config_file.load(plan.configs[network], [*plan.overrides[network], *keys])
                taking.append(Row(f"{network} {' '.join(keys)}", network, "", keys))
            except InputError as error:
                refused = refused or error
        if not taking:
            raise refused or InputError(f"--overrides {text}: choose {' or '.join(OURS)} too, with --only.")
        rows += taking
    return rows
