"""tuned.json, in the folder of a run: what was chosen for its weights, by what, and what that is worth.

`tfbrats tune` writes it, `tfbrats export` reads it. It belongs to the weights that it was chosen with, by their
files' hashes: a run trained on has others, and needs choices of its own. What several runs chose together lies
in the folder of each, and goes for each of them and for all as one model.
"""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import pydantic

from tfbrats import __version__
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.runs.folder import TUNED
from tfbrats.terminal import verbs
from tfbrats.tuning.choices import Tuned

FORMAT = 1


class Worth(pydantic.BaseModel):
    """A gain of the criterion on patients that did not choose, with its 95 % interval over patients.

    Attributes:
        chance: how often some candidate of all that were tried does as well by chance alone; None where it was
            not asked.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    gain: float
    low: float
    high: float
    chance: float | None = None


class TunedFile(pydantic.BaseModel):
    """The contents of tuned.json.

    Attributes:
        tuned: the choices, as `Tuned.to_json`; {} where nothing helped.
        chosen: name of each choice -> what it is worth over all the others; `others` of what was not chosen.
        whole: what all of them together are worth: of each patient by what the other patients choose.
        scores: "plain" and "tuned" -> region -> score -> mean over the patients; the tuned ones as `whole`.
        criterion: by which was chosen, and what it means.
        cases: ids of the cases that chose; `patients`: how many.
        seed: of the draws.
        weights: SHA-256 of the checkpoint of each network, sorted.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    tfbrats_version: str = __version__
    tuned: dict[str, Any]
    chosen: dict[str, Worth]
    others: dict[str, Worth]
    whole: Worth
    scores: dict[str, dict[str, dict[str, float]]]
    criterion: str
    meaning: str
    cases: tuple[str, ...]
    patients: int
    seed: int
    weights: tuple[str, ...]

    @property
    def choices(self) -> Tuned:
        return Tuned.from_json(self.tuned, TUNED)


def path_in(run: str | os.PathLike) -> str:
    return files.join(run, TUNED)


def write(run: str | os.PathLike, content: TunedFile) -> None:
    files.write_json(path_in(run), content.model_dump(mode="json"))


def read(run: str | os.PathLike) -> TunedFile | None:
    """What was chosen for a run; None where nothing was.

    Raises:
        InputError: another file, or one of another format.
    """
    path = path_in(run)
    if not files.exists(path):
        return None
    try:
        found = TunedFile.model_validate_json(json.dumps(files.read_json(path)))
    except pydantic.ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(f"{path}: {faults}. {again([run])}") from error
    if found.format != FORMAT:
        raise InputError(f"{path}: format {found.format}; this version reads {FORMAT}. {again([run])}")
    Tuned.from_json(found.tuned, path)
    return found


def check_weights(runs: Sequence[str], content: TunedFile, weights: Sequence[str]) -> None:
    """Raises InputError if a model has weights that choices were not made with.

    Args:
        runs: folders of the model's runs, named in the error.
        weights: SHA-256 of each checkpoint of the model (`training.best_weights.sha256_of`): all that chose, or
            some of them.
    """
    if not set(weights) <= set(content.weights):
        raise InputError(
            f"{path_in(runs[0])}: was chosen with other weights than these: the run was trained on since, or "
            f"other runs are with it. {again(runs)} Or leave the choices away: tfbrats export --plain."
        )


def again(runs: Iterable[str | os.PathLike]) -> str:
    """The sentence that says by which command to choose anew."""
    return f"Choose anew: {verbs.command_line('tfbrats.tune', '--run', *runs, '--input', 'CASES')}."
