"""The YAML of a run as typed, frozen objects. Every key is required; an unknown one is an error.

Scientific values live in the YAML alone: nothing here has a default. No TensorFlow.
"""

import argparse
import difflib
import os
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
import yaml

from tfbrats import files, paths, yaml_text
from tfbrats.command import InputError
from tfbrats.labels import MODALITIES, REGIONS

_HERE = pathlib.Path(__file__).parent
# Installed, the shipped configs lie inside the package; in a checkout, beside it.
SHIPPED = next((p for p in (_HERE / "configs", _HERE.parent / "configs") if p.is_dir()), _HERE)

Modality = Literal["flair", "t1", "t1ce", "t2"]
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]


def _place(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not the name of a folder as YAML reads it. Put the name between quotes: 'NAME'")
    return paths.given(value)


Place = Annotated[str, pydantic.BeforeValidator(_place)]  # a folder


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Preprocess(_Section):
    n4_modalities: tuple[Modality, ...]
    n4_shrink: pydantic.PositiveInt  # N4 fits its field on an image shrunk by this factor


class _Model(_Section):
    width: pydantic.PositiveInt  # channels at full resolution; doubles at each level
    batch_norm: Literal["synchronised", "per_replica"]  # over the global batch, or each replica's


class _Data(_Section):
    records: Place  # folder that holds dataset.json and its shards
    modalities: tuple[Modality, ...]  # the channel order inside the network
    shuffle_buffer: pydantic.PositiveInt  # examples

    @pydantic.field_validator("modalities")
    @classmethod
    def _each_once(cls, value):
        if len(set(value)) != len(value) or not value:
            raise ValueError(f"name each modality once; choose from {', '.join(MODALITIES)}")
        return value


class _Records(_Section):
    split: tuple[pydantic.PositiveInt, pydantic.NonNegativeInt, pydantic.NonNegativeInt]
    seed: pydantic.NonNegativeInt
    shard_mib: pydantic.PositiveInt  # a shard holds whole cases up to about this size
    min_shards: pydantic.PositiveInt  # per split, as far as there are cases


class _Train(_Section):
    epochs: pydantic.PositiveInt
    steps_per_epoch: pydantic.PositiveInt | None  # null: as many as the records fill
    batch_size: int | Literal["auto"]  # per replica; auto: the largest that fits
    learning_rate: pydantic.PositiveFloat
    stop_rise: pydantic.NonNegativeFloat  # an obvious rise: validation loss over (1 + this) x best
    stop_patience: pydantic.PositiveInt  # ... in this many epochs on end
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"]
    jit_compile: bool  # XLA, on one device
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]
    checkpoint_minutes: pydantic.PositiveFloat  # between checkpoints inside a long epoch
    seed: pydantic.NonNegativeInt

    @pydantic.field_validator("batch_size", mode="plain")
    @classmethod
    def _a_number_or_auto(cls, value):
        # By hand: of a union, pydantic would name a fault of each member.
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError("Input should be greater than 0, a whole number, or auto")
        return value


class Run(_Section):
    dir: Place


class _Config(_Section):
    """One row of a paper's table, ready to run."""

    @pydantic.model_validator(mode="after")
    def _n4_is_of_the_data(self):
        stray = set(self.preprocess.n4_modalities) - set(self.data.modalities)
        if stray:
            raise ValueError(f"preprocess.n4_modalities names {sorted(stray)}, not in data.modalities")
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


# --- paper A: networks that see axial slices ------------------------------------------------------------


class SliceModel(_Model):
    name: Literal["cun", "unet2d", "bfcn", "drn"]


class SliceData(_Data):
    rotation_degrees: Annotated[float, pydantic.Field(ge=0, le=180)]  # uniform in +- this
    flip: Fraction  # probability, drawn for each in-plane axis


class SliceRecords(_Records):
    kind: Literal["slices"]
    slice_shape: tuple[pydantic.PositiveInt, pydantic.PositiveInt]  # voxels the network sees
    dropped_fraction: Fraction  # of a training case's slices: without brain first, then tumour-free

    @pydantic.field_validator("slice_shape")
    @classmethod
    def _sixteenths(cls, value):
        if any(side % 16 for side in value):
            raise ValueError("each side must be a multiple of 16 (four poolings)")
        return value


class SliceTrain(_Train):
    learning_rate_floor: pydantic.PositiveFloat
    momentum: Fraction
    weight_decay: pydantic.NonNegativeFloat
    omega: pydantic.NonNegativeFloat  # weight of cun's eight auxiliary losses
    omega_floor: pydantic.NonNegativeFloat
    ladder_epochs: pydantic.PositiveInt  # learning rate and omega fall by `ladder_factor` this often
    ladder_factor: Annotated[float, pydantic.Field(gt=0, le=1)]


class LossWeightedSampling(_Section):
    enabled: bool  # false: W = 1 everywhere
    beta: pydantic.PositiveFloat
    contour_weight: Annotated[float, pydantic.Field(ge=1)]  # alpha1, U-Net1's
    contour_width_mm: pydantic.PositiveFloat
    floor: Fraction  # the least p2
    scope: Literal["batch", "slice"]  # what N_pos and N_S2 are counted over


class SliceConfig(_Config):
    """A row of paper A's table."""

    model: SliceModel
    data: SliceData
    preprocess: Preprocess
    records: SliceRecords
    train: SliceTrain
    lws: LossWeightedSampling
    run: Run

    @pydantic.model_validator(mode="after")
    def _what_cun_alone_has_is_off(self):
        if self.model.name == "cun":
            return self
        keys = {
            "train.omega": (self.train.omega, "0"),
            "train.omega_floor": (self.train.omega_floor, "0"),
            "lws.enabled": (self.lws.enabled, "false"),
        }
        wrong = [f"{key}={off}" for key, (value, off) in keys.items() if value]
        if wrong:
            raise ValueError(
                f"{self.model.name} has neither auxiliary losses nor loss weighted sampling, which are cun's: "
                f"set {' '.join(wrong)}"
            )
        return self

    @property
    def regions(self) -> tuple[str, ...]:
        """As a `PatchConfig`'s: one network, of no region's own."""
        return ("",)

    def records_identity(self) -> dict[str, Any]:
        """All that the bytes of the records depend on: the writer stores it, the reader compares it.

        The rest of the config may differ between runs on one record set: all rows of paper A's table share.
        """
        content = self.model_dump(mode="json")
        return {
            "modalities": content["data"]["modalities"],
            "preprocess": content["preprocess"],
            "records": content["records"],
            "contour_width_mm": content["lws"]["contour_width_mm"],
        }


class Boundary(_Section):
    """What the boundary branch of `bfcn` learns, and how much the two branches count."""

    width_px: pydantic.PositiveInt  # of the outlines of WT, TC and ET
    balanced: bool  # pixels on an outline weigh as much more as they are rarer; false: each pixel weighs 1
    region_weight: pydantic.NonNegativeFloat  # of the region branch's loss; the combination's weighs 1
    boundary_weight: pydantic.NonNegativeFloat  # of the boundary branch's loss

    @pydantic.field_validator("width_px")
    @classmethod
    def _odd(cls, value):
        if value % 2 == 0:
            raise ValueError(
                f"a line centred on pixels is 1, 3, 5 ... px wide: take {value - 1} or {value + 1}"
            )
        return value


class BoundaryConfig(SliceConfig):
    """Paper A's row `bfcn`: the only one with outlines."""

    boundary: Boundary


# --- paper B: networks that see patches, one for each region --------------------------------------------


class PatchModel(_Model):
    name: Literal["msm", "msm_noaspp", "unet3d"]


class PatchData(_Data):
    patches_per_read: pydantic.PositiveInt  # of a volume each time it is read; kind "volumes" alone


class PatchRecords(_Records):
    kind: Literal["patches", "volumes"]  # cut once and stored, or cut afresh every epoch


class Sampling(_Section):
    """Which patches a case gives."""

    patch_size: Annotated[int, pydantic.Field(ge=8, multiple_of=8)]  # voxels along each side
    patches_per_case: pydantic.PositiveInt  # for each region
    region_fraction: Fraction  # of the centres: on the region's voxels; the rest anywhere in the parent box
    boxes: Literal["reference", "predicted"]  # whose parent boxes
    box_jitter: pydantic.NonNegativeInt  # each face of a parent box is moved by up to this many voxels


class Cascade(_Section):
    """How the regions follow from each other, WT -> TC -> ET, in training and on a whole case."""

    mask: Literal["box", "multiply"]  # multiply: the image is 0 outside the parent region
    margin: pydantic.NonNegativeInt  # voxels round the parent region's box
    stride: pydantic.PositiveInt  # voxels from tile to tile
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)]
    tile_batch: pydantic.PositiveInt  # tiles in one forward pass: bounds its memory


class PatchTrain(_Train):
    beta1: Annotated[float, pydantic.Field(ge=0, lt=1)]
    beta2: Annotated[float, pydantic.Field(ge=0, lt=1)]


class PatchConfig(_Config):
    """A row of paper B's tables: three networks, WT, TC and ET."""

    region: Literal["all", "wt", "tc", "et"]  # one of them, so that three machines can share the work
    model: PatchModel
    data: PatchData
    preprocess: Preprocess
    records: PatchRecords
    sampling: Sampling
    cascade: Cascade
    train: PatchTrain
    run: Run

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.cascade.stride > self.sampling.patch_size:
            raise ValueError(
                f"cascade.stride {self.cascade.stride} is more than sampling.patch_size "
                f"{self.sampling.patch_size}: voxels between two tiles would be in none"
            )
        if self.model.name != "unet3d" and self.model.width % 2:
            raise ValueError(
                f"model.width {self.model.width} is odd: the four branches of ET's pyramid have half of it each"
            )
        if self.sampling.boxes == "predicted" and self.records.kind == "patches":
            raise ValueError(
                "sampling.boxes=predicted needs records.kind=volumes: stored patches were cut before there was "
                "a prediction"
            )
        if self.sampling.boxes == "predicted" and self.cascade.mask == "multiply":
            raise ValueError("sampling.boxes=predicted goes with cascade.mask=box: boxes are kept, not masks")
        return self

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that are meant, in the cascade's order, e.g. ("WT", "TC", "ET")."""
        return tuple(REGIONS) if self.region == "all" else (self.region.upper(),)

    def records_identity(self) -> dict[str, Any]:
        """All that the bytes of the records depend on: volumes are the same whatever is cut from them."""
        content = self.model_dump(mode="json")
        identity = {
            "modalities": content["data"]["modalities"],
            "preprocess": content["preprocess"],
            "records": content["records"],
        }
        if self.records.kind == "patches":
            identity["sampling"] = content["sampling"]
            identity["cascade"] = {key: content["cascade"][key] for key in ("mask", "margin")}
        return identity


Config = SliceConfig | PatchConfig
ROOT_KEYS = ("region",)  # those that stand in no section
# Those of texts, in which nothing is to be read: folders.
_TEXT_KEYS = {
    f"{section}.{key}"
    for kind in (SliceConfig, PatchConfig)
    for section, content in kind.model_fields.items()
    for key, field in getattr(content.annotation, "model_fields", {}).items()
    if field.annotation is str
}
_BY_NETWORK: Mapping[str, type[_Config]] = {
    name: kind
    for kind, model in ((SliceConfig, SliceModel), (PatchConfig, PatchModel))
    for name in typing.get_args(model.model_fields["name"].annotation)
} | {"bfcn": BoundaryConfig}


def shipped_names() -> list[str]:
    return sorted(path.name for path in SHIPPED.glob("*.yaml"))


def _find(given: str | os.PathLike) -> str:
    given = os.fspath(given)
    if files.exists(given):
        return given
    shipped = SHIPPED / given
    if os.sep not in given and shipped.is_file():
        return str(shipped)
    near = difflib.get_close_matches(given, shipped_names(), n=1)
    raise InputError(
        f"config {given}: neither a file {pathlib.Path(given).absolute()} nor among the shipped ones in "
        f"{SHIPPED}: {', '.join(shipped_names()) or 'none'}." + (f" Did you mean {near[0]}?" if near else "")
    )


def _keys(section: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for key, field in section.model_fields.items():
        keys.append(prefix + key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            keys += _keys(field.annotation, f"{prefix}{key}.")
    return keys


def _instead_of(unknown: str, kind: type[_Config]) -> str:
    """The nearest key of the same section, or the key of that name in another, or all that there are."""
    section, _, name = unknown.rpartition(".")
    if unknown in _keys(kind):  # one key with a dot in it
        return f"; write {name}: on a line of its own, indented, below {section}:"
    if section in _keys(kind) and not any(key.startswith(f"{section}.") for key in _keys(kind)):
        return f"; {section} is one value, with nothing below it"
    siblings = [key for key in _keys(kind) if key.rpartition(".")[0] == section]
    # By their own names: with the section before them any two keys of it look alike.
    named = {key.rpartition(".")[2]: key for key in siblings}
    near = [named[one] for one in difflib.get_close_matches(name, named, n=1, cutoff=0.7)]
    near = near or [key for key in _keys(kind) if key.rpartition(".")[2] == name]
    if near:
        return f"; did you mean {near[0]}?"
    names = ", ".join(key.rpartition(".")[2] for key in siblings)
    return f"; {section} has {names}" if section else f"; the sections are {names}"


def _explain(error: pydantic.ValidationError, kind: type[_Config]) -> str:
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}{_instead_of(key, kind)}")
        elif fault["type"] == "missing":
            lines.append(f"missing key {key}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            # A fault of the whole config shows the keys it names, not the whole input.
            lines.append(f"{key} = {fault['input']!r}: {message}" if key else message)
    return "\n  ".join(lines)


def _kind_of(content: Mapping) -> type[_Config]:
    """Which paper's keys apply: model.name decides; without a known one, what fits more of the sections."""
    model = content.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    if isinstance(name, str) and name in _BY_NETWORK:
        return _BY_NETWORK[name]
    return max((SliceConfig, PatchConfig), key=lambda kind: len(set(content) & set(kind.model_fields)))


def from_mapping(content: Mapping, where: str) -> Config:
    """Checks a nested mapping.

    Raises:
        InputError: every unknown, missing or impossible key, each on a line, with the nearest name.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: expected sections, e.g. {', '.join(SliceConfig.model_fields)}.")
    kind = _kind_of(content)
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        raise InputError(f"{where}:\n  {_explain(error, kind)}") from error


def load(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Config:
    """Reads a config: a path if one exists, else a shipped one of that name, then `section.key=value`s.

    What stands for a folder is taken as it is written, in the file as in an override.

    Raises:
        InputError: not found, not YAML, or a key or value that does not fit.
    """
    found = _find(path)
    try:
        content = yaml_text.parsed(files.read_text(found), _TEXT_KEYS)
    except yaml.YAMLError as error:
        raise InputError(f"{found}: not valid YAML ({error}).") from error
    return _overridden(content, overrides, str(found))


def overridden(
    config: Config, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> Config:
    """A config with `values` by section.key, then `section.key=value`s, put over it. Errors as `load`."""
    content = config.model_dump(mode="json")
    for key, value in (values or {}).items():
        section, _, name = key.rpartition(".")
        content.setdefault(section, {})[name] = value
    return _overridden(content, overrides, "the config")


def _overridden(content: Any, overrides: Sequence[str], found: str) -> Config:
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.rpartition(".")
        if not (equals and name and bool(dot) == bool(section)):
            raise InputError(f"{override!r}: an override reads section.key=value, e.g. train.epochs=3.")
        try:
            value = text if key in _TEXT_KEYS else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"{override!r}: {text!r} is not a YAML value.") from error
        if "." in section:
            raise InputError(
                f"{override!r}: nothing stands below {section}. An override reads section.key=value, e.g. "
                "train.epochs=3."
            )
        place = content.setdefault(section, {}) if dot and isinstance(content, dict) else content
        if not isinstance(place, dict):
            raise InputError(f"{override!r}: {found} has no section {section}.")
        if not dot and key not in ROOT_KEYS:
            raise InputError(f"{override!r}: an override reads section.key=value, e.g. train.epochs=3.")
        place[name] = value
    return from_mapping(content, found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config` and its overrides, the same for every command."""
    parser.add_argument(
        "--config", type=paths.argument, required=True, help="a YAML file, or the name of a shipped one"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="e.g. model.width=16 train.epochs=2",
    )


def differences(ours: Mapping, theirs: Mapping, prefix: str = "") -> list[str]:
    """Where two nested mappings differ: ["records.seed: 0, there 1", ...]."""
    found = []
    for key in {**ours, **theirs}:
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a}, there {b}")
    return found
