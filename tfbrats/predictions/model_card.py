"""The card: what a SavedModel says of itself, in tfbrats.json. No TensorFlow.

Export writes it, and it is read before a case is sent. It lies in the version's folder and is also served, by
the signature `describe`, so that a client needs no access to the disk of the server. Names follow MONAI's
metadata.json where it has one.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pydantic

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, LabelSchema
from tfbrats.machine import files, memory
from tfbrats.terminal import verbs
from tfbrats.terminal.wording import counted

if TYPE_CHECKING:  # whoever asks for a card need not wait for the readers of images
    from tfbrats.cases.case import Case

FILE = "tfbrats.json"
FORMAT = 2
_CALLER_CORRECTS = 1  # the format of models whose graph has no N4
_CONFIG_OF_RUN = "config.yaml"  # lies in a training's folder
_SHOWN = 5  # names, where a model is looked for and not found
ENTROPY = "entropy"  # the output of an average that tells how sure it is
TILES = "tiles"  # the output of a cascade that tells how many tiles each stage ran


N4Method = Literal["tfbrats", "SimpleITK"]
# Shown to people: no sign that steers a terminal.
_Text = Annotated[str, pydantic.StringConstraints(pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]


class N4(pydantic.BaseModel):
    """Where the bias field of which modalities is corrected.

    Attributes:
        modalities: that are corrected; the others are taken as they are.
        shrink: the field is fitted on one voxel of so many along each axis.
        by: "graph": raw scans are sent. "caller": they are corrected before they are sent.
        method: whose N4 that is.
        of_records: whose corrected what the networks were trained on. The two fields are within
            0.01 % at shrink 4, but for a constant factor, which the z-score loses; at 2 within 0.1 %.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    modalities: tuple[str, ...]
    shrink: int
    by: Literal["graph", "caller"]
    method: N4Method
    of_records: N4Method


class Averaged(pydantic.BaseModel):
    """What a model averages the probabilities of, and what that costs.

    Attributes:
        networks: for each region, or for the whole where there is one network.
        mirrored: beside the input as it lies, along which axes (of `ModelCard.axes`) it is mirrored: "L", "LP".
        passes: forward passes of each slice or tile that is run; one network without mirrored inputs has one.
        weights_bytes: of all networks; mirrored inputs add none.
        seconds: of a small simulated case on the machine that exported it, N4 left out.
        seconds_of_one: of the first network alone, without mirrored inputs.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    networks: int
    mirrored: tuple[str, ...]
    passes: int
    weights_bytes: int
    seconds: float
    seconds_of_one: pydantic.PositiveFloat

    @property
    def text(self) -> str:
        """E.g. "3 networks, inputs also mirrored along L, P, LP: 12 passes a slice or tile, ..."."""
        mirrored = f", inputs also mirrored along {', '.join(self.mirrored)}" if self.mirrored else ""
        return (
            f"{self.networks} network{'s' * (self.networks > 1)}{mirrored}: {self.passes} passes a slice or "
            f"tile, weights of {self.weights_bytes / 2**20:.1f} MiB, {self.seconds / self.seconds_of_one:.2g} "
            "times the seconds of the first network alone on the machine that exported it"
        )


class TunedOn(pydantic.BaseModel):
    """What was chosen on validation cases and stands in the graph: `tfbrats tune`.

    Attributes:
        choices: as `Tuned.to_json`. Voxels are the case's own: the graph knows no spacing.
        lines: the same in words, in the order in which they act.
        criterion: by which was chosen, and its meaning.
        cases: how many chose, and how many patients they are of.
        gain: of the criterion by all choices together, on patients that did not choose.
        gain_interval: 95 %.
        gains: each choice's own.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    choices: dict[str, Any]
    lines: tuple[str, ...]
    criterion: str
    meaning: str
    cases: int
    patients: int
    gain: float
    gain_interval: tuple[float, float]
    gains: dict[str, dict[str, Any]]

    @property
    def text(self) -> str:
        """E.g. "WT: holes filled; chosen on 42 cases for ... (+0.031, 95 % interval +0.010 to +0.052)"."""
        low, high = self.gain_interval
        return (
            f"{'; '.join(self.lines)}. Chosen on {counted(self.cases, 'case')} for {self.meaning}: "
            f"{self.gain:+.3f} on patients that did not choose (95 % interval {low:+.3f} to {high:+.3f})"
        )


class ModelCard(pydantic.BaseModel):
    """The contents of tfbrats.json.

    Attributes:
        modalities: names of the whole-case signatures' inputs, each [I, J, K] on one grid, axes as `axes`.
        n4: which of them are bias-corrected, and where; the graph does the rest.
        precision: in which the network computes; cards from before it was told are of float32.
        batch_norm: how many batch normalisations were folded into convolutions; "" where it was not told.
        bfloat16: how fast it was in bfloat16 where it was exported, and what that changed; "" if not tried.
        label_schema: which value of `segmentation` stands for which tissue.
        tuned: what was chosen on validation cases; None for the plain model.
        averaged: of how many passes the answer is the mean; None for one network that sees a case as it lies.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    name: _Text
    version: int
    description: _Text
    tfbrats_version: str
    modalities: tuple[str, ...]
    axes: str
    n4: N4
    normalisation: str
    precision: str = "float32"
    batch_norm: str = ""
    bfloat16: str = ""
    averaged: Averaged | None = None
    tuned: TunedOn | None = None
    spacing_mm: tuple[float, float, float]
    label_schema: dict[str, Any]
    regions: dict[str, tuple[str, ...]]
    signatures: dict[str, dict[str, Any]]
    training_data: dict[str, Any]
    scores: dict[str, Any]
    license: _Text
    intended_use: _Text

    _read_from: bytes | None = pydantic.PrivateAttr(None)

    @pydantic.model_validator(mode="after")
    def _holds_what_is_read_of_it(self) -> "ModelCard":
        LabelSchema.from_json(self.label_schema)
        if not all(isinstance(one.get("outputs", {}), dict) for one in self.signatures.values()):
            raise ValueError("signatures: expected the outputs of each by their names")
        return self

    @property
    def n4_of_caller(self) -> tuple[str, ...]:
        """The modalities that are to be bias-corrected before they are sent."""
        return self.n4.modalities if self.n4.by == "caller" else ()

    @property
    def schema_of_labels(self) -> LabelSchema:
        return LabelSchema.from_json(self.label_schema)

    def to_json(self) -> str:
        """tfbrats.json's text. What is None stays out: older versions read models that have nothing of it."""
        absent = {name for name in ("averaged", "tuned") if getattr(self, name) is None}
        return self.model_dump_json(indent=2, exclude=absent) + "\n"

    def to_file(self) -> bytes:
        """tfbrats.json as it was read, byte for byte; of a card that was not read, as `to_json` writes it."""
        return self.to_json().encode() if self._read_from is None else self._read_from

    def __eq__(self, other: object) -> bool:
        """By content, however it was written."""
        return isinstance(other, ModelCard) and self.model_dump() == other.model_dump()

    def model_copy(self, **changes: Any) -> "ModelCard":
        """As pydantic's. The copy is a card that was not read."""
        copy = super().model_copy(**changes)
        copy._read_from = None
        return copy


def parse(text: str | bytes, where: str) -> ModelCard:
    """The card that a text is.

    Args:
        where: the text is from, named in errors.

    Raises:
        InputError: not a tfbrats.json, or one of another format.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a {FILE} ({error}). Export the model again.") from error
    if not isinstance(content, dict) or "format" not in content:
        raise InputError(f"{where}: not a {FILE} of an exported model.")
    if content["format"] not in (_CALLER_CORRECTS, FORMAT):  # before the entries, which it may name otherwise
        raise InputError(
            f"{where}: format {content['format']}; this version reads {_CALLER_CORRECTS} and {FORMAT}. "
            "Use a newer tfbrats, or export it again."
        )
    try:
        card = ModelCard.model_validate_json(json.dumps(_as_now(content)))
    except pydantic.ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(f"{where}: {faults}. Export the model again.") from error
    card._read_from = text.encode() if isinstance(text, str) else text
    return card


def _as_now(content: dict[str, Any]) -> dict[str, Any]:
    """A card's entries in today's format. Before it the caller corrected, by SimpleITK: there was no other."""
    if content["format"] != _CALLER_CORRECTS or not {"n4_modalities", "n4_shrink"} <= set(content):
        return content
    now = {**content, "format": FORMAT}
    modalities, shrink = now.pop("n4_modalities"), now.pop("n4_shrink")
    whose = {"by": "caller", "method": "SimpleITK", "of_records": "SimpleITK"}
    return {**now, "n4": {"modalities": modalities, "shrink": shrink, **whose}}


def read(model_dir: str | os.PathLike) -> ModelCard:
    """The card in a version's folder, e.g. models/cun/1. Errors as `parse`.

    Raises:
        InputError: there is none.
    """
    path = files.join(model_dir, FILE)
    if not files.exists(path):
        raise InputError(
            f"{model_dir}: no {FILE} here. Point to one version's folder of an exported model, "
            "e.g. models/cun/1."
        )
    return parse(files.read_bytes(path), path)


def version_folder(path: str) -> str:
    """The folder of the version that is meant by a path to a model: its newest, or the one that it names.

    Args:
        path: of one version (models/cun/1), or of a model (models/cun), whose versions are numbered folders.

    Returns:
        the path itself where it holds a card; else the folder below it of the highest number that holds one.

    Raises:
        InputError: neither holds a card.
    """
    if files.exists(files.join(path, FILE)):
        return path
    names = files.names_in(path)
    for name in sorted(filter(_is_number, names), key=int, reverse=True):
        if files.exists(files.join(path, name, FILE)):
            return files.join(path, name)
    raise InputError(
        f"{path}: no {FILE} here, nor in a numbered folder below. Point to an exported model (models/cun: its "
        f"newest version is taken) or to one version of it (models/cun/1).{_what_lies_there(path, names)}"
    )


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _what_lies_there(path: str, names: Sequence[str]) -> str:
    """A sentence on what was found in the place of a model."""
    if _CONFIG_OF_RUN in names:
        return f" It is a run: `{verbs.command_line('tfbrats.export', '--run', path)}` makes a model of it."
    if not names:
        return " There is no such folder." if not files.is_folder(path) else " The folder is empty."
    models = [name for name in names if any(map(_is_number, files.names_in(files.join(path, name))))]
    found = f" Found {', '.join(names[:_SHOWN])}{' and more' if names[_SHOWN:] else ''}."
    return f"{found} Did you mean {files.join(path, models[0])}?" if models else found


class OtherModelError(InputError):
    """A folder holds another model's results: no case's fault, so that the whole command ends."""


def keep(card: ModelCard, output: str | os.PathLike) -> None:
    """Puts the card beside what its model predicted, before each result: another command may write here too.

    Raises:
        OtherModelError: another model's card lies there by now.
    """
    path = files.join(output, FILE)
    if not files.exists(path) and files.create(path, card.to_file()):
        return
    kept = parse(files.read_bytes(path), path)
    if kept != card:
        raise OtherModelError(
            f"{output}: another command has begun to write results of {kept.name} version {kept.version} "
            f"here (these are of {card.name} version {card.version}). Choose another --output."
        )


def inputs(card: ModelCard, case: "Case") -> dict[str, np.ndarray]:
    """What the whole-case signatures expect for a case loaded with the card's modalities.

    N4 is done here for models whose graph does not.

    Returns:
        modality -> [I, J, K], all int16 (whole numbers, no N4 done here) or all float32.

    Raises:
        InputError: the case was loaded with other modalities.
        MissingPackageError: N4 is to be done here, and SimpleITK is not installed.
    """
    if set(case.modalities) != set(card.modalities):
        raise InputError(
            f"{case.case_id}: the model {card.name} takes {', '.join(card.modalities)}; received "
            f"{', '.join(case.modalities)}."
        )
    image = case.image
    if card.n4_of_caller:
        from tfbrats.cases import preprocess

        whose: Literal["ours", "itk"] = "ours" if card.n4.method == "tfbrats" else "itk"
        # One case is waited for here: its modalities may share the cores, which changes no bit.
        image = preprocess.correct_bias(case, card.n4_of_caller, card.n4.shrink, memory.cores(), whose)
    return {name: _in_c_order(image[..., m]) for m, name in enumerate(case.modalities)}


def _in_c_order(volume: np.ndarray) -> np.ndarray:
    """[I, J, K] as files have it, its first axis in one piece -> C order, as TensorFlow takes it.

    Plane by plane, which the processor's cache holds: a third of the time of `np.ascontiguousarray`.
    """
    ordered = np.empty(volume.shape, volume.dtype)
    for j in range(volume.shape[1]):
        ordered[:, j] = volume[:, j]
    return ordered


def signature_for(volumes: Mapping[str, np.ndarray]) -> str:
    """Which whole-case signature takes these arrays: whole numbers travel in half the bytes."""
    return "int16" if all(v.dtype == np.int16 for v in volumes.values()) else "serving_default"


def outputs(
    card: ModelCard, signature: str, probabilities: bool = False, uncertainty: bool = False
) -> list[str]:
    """What to ask a whole-case signature for: the label map, tiles if it has them, and what else is wanted."""
    offered = card.signatures.get(signature, {}).get("outputs", {})
    tiles = [TILES] if TILES in offered else []
    wanted = {"probabilities": probabilities, ENTROPY: uncertainty}
    return ["segmentation", *tiles, *(name for name, is_wanted in wanted.items() if is_wanted)]


def check_is_average(card: ModelCard) -> None:
    """Raises InputError where a model cannot tell how sure it is: one network, which sees a case once."""
    if card.averaged is None:
        raise InputError(
            f"--uncertainty: the model {card.name} version {card.version} is one network that sees a case "
            "once, and does not tell how sure it is. Export it with --flips, or several runs with --runs."
        )


def tissues(card: ModelCard, segmentation: np.ndarray, where: str) -> np.ndarray:
    """The graph's `segmentation` (the card's label values, uint8) as tissues, same shape.

    Args:
        where: it is from, named in errors.

    Raises:
        InputError: it holds a value that the card has no tissue for.
    """
    return card.schema_of_labels.to_tissues(segmentation, where)


def tiles_line(tiles: np.ndarray) -> str:
    """What the cascade spared itself: int32 [3] tiles run for WT, TC and ET, in words.

    Without boxes every stage would go over the whole brain, as WT's does.
    """
    each = ", ".join(f"{region} {count}" for region, count in zip(REGIONS, tiles, strict=True))
    return f"tiles run: {each}; without boxes {len(REGIONS) * tiles[0]} instead of {sum(tiles)}"
