"""The YAML of a run as typed, frozen objects. Every key is required; an unknown one is an error.

Scientific values live in the YAML alone: nothing here has a default. No TensorFlow.
"""

import argparse
import difflib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
import yaml

from tfbrats import files
from tfbrats.command import InputError
from tfbrats.labels import MODALITIES

_HERE = pathlib.Path(__file__).parent
# Installed, the shipped configs lie inside the package; in a checkout, beside it.
SHIPPED = next((p for p in (_HERE / "configs", _HERE.parent / "configs") if p.is_dir()), _HERE)

Modality = Literal["flair", "t1", "t1ce", "t2"]
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Model(_Section):
    name: Literal["cun"]
    width: pydantic.PositiveInt  # channels at full resolution; doubles at each level
    batch_norm: Literal["synchronised", "per_replica"]  # over the global batch, or each replica's


class Data(_Section):
    records: str  # folder that holds dataset.json and its shards
    modalities: tuple[Modality, ...]  # the channel order inside the network
    rotation_degrees: Annotated[float, pydantic.Field(ge=0, le=180)]  # uniform in +- this
    flip: Fraction  # probability, drawn for each in-plane axis
    shuffle_buffer: pydantic.PositiveInt  # examples

    @pydantic.field_validator("modalities")
    @classmethod
    def _each_once(cls, value):
        if len(set(value)) != len(value) or not value:
            raise ValueError(f"name each modality once; choose from {', '.join(MODALITIES)}")
        return value


class Preprocess(_Section):
    n4_modalities: tuple[Modality, ...]
    n4_shrink: pydantic.PositiveInt  # N4 fits its field on an image shrunk by this factor


class Records(_Section):
    kind: Literal["slices"]
    slice_shape: tuple[pydantic.PositiveInt, pydantic.PositiveInt]  # voxels the network sees
    dropped_fraction: Fraction  # of a training case's slices: without brain first, then tumour-free
    split: tuple[pydantic.PositiveInt, pydantic.NonNegativeInt, pydantic.NonNegativeInt]
    seed: pydantic.NonNegativeInt
    shard_mib: pydantic.PositiveInt  # a shard holds whole cases up to about this size
    min_shards: pydantic.PositiveInt  # per split, as far as there are cases

    @pydantic.field_validator("slice_shape")
    @classmethod
    def _sixteenths(cls, value):
        if any(side % 16 for side in value):
            raise ValueError("each side must be a multiple of 16 (four poolings)")
        return value


class Train(_Section):
    epochs: pydantic.PositiveInt
    steps_per_epoch: pydantic.PositiveInt | None  # null: as many as the records fill
    batch_size: pydantic.PositiveInt  # per replica
    learning_rate: pydantic.PositiveFloat
    learning_rate_floor: pydantic.PositiveFloat
    momentum: Fraction
    weight_decay: pydantic.NonNegativeFloat
    omega: pydantic.NonNegativeFloat  # weight of the eight auxiliary losses
    omega_floor: pydantic.NonNegativeFloat
    ladder_epochs: pydantic.PositiveInt  # learning rate and omega fall by `ladder_factor` this often
    ladder_factor: Annotated[float, pydantic.Field(gt=0, le=1)]
    stop_rise: pydantic.NonNegativeFloat  # an obvious rise: validation loss over (1 + this) x best
    stop_patience: pydantic.PositiveInt  # ... in this many epochs on end
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"]
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]
    checkpoint_minutes: pydantic.PositiveFloat  # between checkpoints inside a long epoch
    seed: pydantic.NonNegativeInt


class LossWeightedSampling(_Section):
    enabled: bool  # false: W = 1 everywhere
    beta: pydantic.PositiveFloat
    contour_weight: Annotated[float, pydantic.Field(ge=1)]  # alpha1, U-Net1's
    contour_width_mm: pydantic.PositiveFloat
    floor: Fraction  # the least p2
    scope: Literal["batch", "slice"]  # what N_pos and N_S2 are counted over


class Run(_Section):
    dir: str


class Config(_Section):
    """One row of a paper's table, ready to run."""

    model: Model
    data: Data
    preprocess: Preprocess
    records: Records
    train: Train
    lws: LossWeightedSampling
    run: Run

    @pydantic.model_validator(mode="after")
    def _n4_is_of_the_data(self):
        stray = set(self.preprocess.n4_modalities) - set(self.data.modalities)
        if stray:
            raise ValueError(f"preprocess.n4_modalities names {sorted(stray)}, not in data.modalities")
        return self

    def records_identity(self) -> dict[str, Any]:
        """All that the bytes of the records depend on: the writer stores it, the reader compares it.

        The rest of the config may differ between runs on one record set: `cun` and `cun_lws` share.
        """
        content = self.model_dump(mode="json")
        return {
            "modalities": content["data"]["modalities"],
            "preprocess": content["preprocess"],
            "records": content["records"],
            "contour_width_mm": content["lws"]["contour_width_mm"],
        }

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


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


def _keys(section: type[pydantic.BaseModel] = Config, prefix: str = "") -> list[str]:
    keys = []
    for key, field in section.model_fields.items():
        keys.append(prefix + key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            keys += _keys(field.annotation, f"{prefix}{key}.")
    return keys


def _instead_of(unknown: str) -> str:
    """The nearest key of the same section, or the key of that name in another, or all that there are."""
    section, _, name = unknown.rpartition(".")
    siblings = [key for key in _keys() if key.rpartition(".")[0] == section]
    near = difflib.get_close_matches(unknown, siblings, n=1, cutoff=0.7)
    near = near or [key for key in _keys() if key.rpartition(".")[2] == name]
    if near:
        return f"; did you mean {near[0]}?"
    names = ", ".join(key.rpartition(".")[2] for key in siblings)
    return f"; {section} has {names}" if section else f"; the sections are {names}"


def _explain(error: pydantic.ValidationError) -> str:
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}{_instead_of(key)}")
        elif fault["type"] == "missing":
            lines.append(f"missing key {key}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            # A fault of the whole config shows the keys it names, not the whole input.
            lines.append(f"{key} = {fault['input']!r}: {message}" if key else message)
    return "\n  ".join(lines)


def from_mapping(content: Mapping, where: str) -> Config:
    """Checks a nested mapping.

    Raises:
        InputError: every unknown, missing or impossible key, each on a line, with the nearest name.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: expected sections {', '.join(Config.model_fields)}.")
    try:
        return Config.model_validate(content)
    except pydantic.ValidationError as error:
        raise InputError(f"{where}:\n  {_explain(error)}") from error


class _EachKeyOnce(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, as its standard has it; PyYAML takes the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} stands twice. Keep one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Config:
    """Reads a config: a path if one exists, else a shipped one of that name, then `section.key=value`s.

    Raises:
        InputError: not found, not YAML, or a key or value that does not fit.
    """
    found = _find(path)
    try:
        content = yaml.load(files.read_bytes(found), _EachKeyOnce)
    except yaml.YAMLError as error:
        raise InputError(f"{found}: not valid YAML ({error}).") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and section and name):
            raise InputError(f"{override!r}: an override reads section.key=value, e.g. train.epochs=3.")
        if not isinstance(content, dict) or not isinstance(content.setdefault(section, {}), dict):
            raise InputError(f"{override!r}: {found} has no section {section}.")
        try:
            content[section][name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"{override!r}: {text!r} is not a YAML value.") from error
    return from_mapping(content, str(found))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config` and its overrides, the same for every command."""
    parser.add_argument("--config", required=True, help="a YAML file, or the name of a shipped one")
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
