"""A YAML file becomes a config: it is found, read, overridden and checked, and every fault is told at once."""

import argparse
import difflib
import os
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
import yaml

from tfbrats.config import BoundaryConfig, Config, PatchConfig, PatchModel, RowConfig, SliceConfig, SliceModel
from tfbrats.errors import InputError
from tfbrats.machine import files, paths, yaml_text

_HERE = pathlib.Path(__file__).parent
# Installed, the shipped configs lie inside the package; in a checkout, beside it.
SHIPPED = next((p for p in (_HERE / "configs", _HERE.parent / "configs") if p.is_dir()), _HERE)

_FORM = "section.key=value, e.g. train.epochs=3"
ROOT_KEYS = ("region",)  # those that stand in no section
# Those of texts, in which nothing is to be read: folders.
_TEXT_KEYS = {
    f"{section}.{key}"
    for kind in (SliceConfig, PatchConfig)
    for section, content in kind.model_fields.items()
    for key, field in getattr(content.annotation, "model_fields", {}).items()
    if field.annotation is str
}
_BY_NETWORK: Mapping[str, type[RowConfig]] = {
    name: kind
    for kind, model in ((SliceConfig, SliceModel), (PatchConfig, PatchModel))
    for name in typing.get_args(model.model_fields["name"].annotation)
} | {"bfcn": BoundaryConfig}


# --- which file is meant --------------------------------------------------------------------------------


def shipped_names() -> list[str]:
    """The configs that come with the package, e.g. "cun.yaml"."""
    return sorted(path.name for path in SHIPPED.glob("*.yaml"))


def _path_of(name: str | os.PathLike) -> str:
    """The file of that name, else the shipped config of that name.

    Raises:
        InputError: there is neither.
    """
    name = os.fspath(name)
    if files.exists(name):
        return name
    shipped = SHIPPED / name
    if os.sep not in name and shipped.is_file():
        return str(shipped)
    near = difflib.get_close_matches(name, shipped_names(), n=1)
    raise InputError(
        f"config {name}: neither a file {pathlib.Path(name).absolute()} nor among the shipped ones in "
        f"{SHIPPED}: {', '.join(shipped_names()) or 'none'}." + (f" Did you mean {near[0]}?" if near else "")
    )


# --- what is wrong with its keys ------------------------------------------------------------------------


def _keys(section: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    """All keys of a section and of those below it, with their sections: "train", "train.epochs", ..."""
    keys = []
    for key, field in section.model_fields.items():
        keys.append(prefix + key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            keys += _keys(field.annotation, f"{prefix}{key}.")
    return keys


def _suggestion(unknown: str, kind: type[RowConfig]) -> str:
    """What to write instead of an unknown key.

    That is the nearest key of the same section, or the key of that name in another, or all that there are.
    """
    section, _, name = unknown.rpartition(".")
    if unknown in _keys(kind):  # one key with a dot in it
        return f"; write {name}: on a line of its own, indented, below {section}:"
    if section in _keys(kind) and not any(key.startswith(f"{section}.") for key in _keys(kind)):
        return f"; {section} is one value, with nothing below it"
    siblings = [key for key in _keys(kind) if key.rpartition(".")[0] == section]
    # By their own names: with the section before them any two keys of it look alike.
    by_name = {key.rpartition(".")[2]: key for key in siblings}
    near = [by_name[alike] for alike in difflib.get_close_matches(name, by_name, n=1, cutoff=0.7)]
    near = near or [key for key in _keys(kind) if key.rpartition(".")[2] == name]
    if near:
        return f"; did you mean {near[0]}?"
    names = ", ".join(by_name)
    return f"; {section} has {names}" if section else f"; the sections are {names}"


def _explain(error: pydantic.ValidationError, kind: type[RowConfig]) -> str:
    """A line for each fault of a config."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}{_suggestion(key, kind)}")
        elif fault["type"] == "missing":
            lines.append(f"missing key {key}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            # A fault of the whole config shows the keys it names, not the whole input.
            lines.append(f"{key} = {fault['input']!r}: {message}" if key else message)
    return "\n  ".join(lines)


# --- from text to config --------------------------------------------------------------------------------


def _kind_of(content: Mapping) -> type[RowConfig]:
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
    file = _path_of(path)
    try:
        content = yaml_text.parsed(files.read_text(file), _TEXT_KEYS)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid YAML ({error}).") from error
    return _overridden(content, overrides, file)


def overridden(
    config: Config, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> Config:
    """A config with some of its keys replaced. Errors as `load`.

    Args:
        overrides: `section.key=value`s, the last to be put over it.
        values: by section.key.
    """
    content = config.model_dump(mode="json")
    for key, value in (values or {}).items():
        section, _, name = key.rpartition(".")
        content.setdefault(section, {})[name] = value
    return _overridden(content, overrides, "the config")


def _overridden(content: Any, overrides: Sequence[str], where: str) -> Config:
    """Puts the overrides into a YAML's content, and makes a config of it.

    Args:
        where: the file, named in errors.
    """
    for override in overrides:
        section, name, value = _parsed(override)
        place = content.setdefault(section, {}) if section and isinstance(content, dict) else content
        if not isinstance(place, dict):
            raise InputError(f"{override!r}: {where} has no section {section}.")
        if not section and name not in ROOT_KEYS:
            raise InputError(f"{override!r}: an override reads {_FORM}.")
        place[name] = value
    return from_mapping(content, where)


def _parsed(override: str) -> tuple[str, str, Any]:
    """Section ("" for a key that stands in none), name and value of a `section.key=value`."""
    key, equals, text = override.partition("=")
    section, dot, name = key.rpartition(".")
    if not (equals and name and bool(dot) == bool(section)):
        raise InputError(f"{override!r}: an override reads {_FORM}.")
    try:
        value = text if key in _TEXT_KEYS else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{override!r}: {text!r} is not a YAML value.") from error
    if "." in section:
        raise InputError(f"{override!r}: nothing stands below {section}. An override reads {_FORM}.")
    return section, name, value


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
