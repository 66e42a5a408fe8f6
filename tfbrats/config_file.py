"""A YAML file becomes a config: it is found, read, overridden and checked, and every fault is told at once."""

import difflib
import glob
import os
import pathlib
import re
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pydantic
import yaml

from tfbrats.config import BoundaryConfig, Config, PatchConfig, PatchModel, RowConfig, SliceConfig, SliceModel
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.terminal import command

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


def shipped_stems() -> list[str]:
    """The same without their endings, as `--config cun` takes them."""
    return [name.removesuffix(".yaml") for name in shipped_names()]


def _path_of(name: str | os.PathLike) -> str:
    """The file of that name, else the shipped config of that name; `cun` may stand for cun.yaml.

    Raises:
        InputError: there is neither.
    """
    name = os.fspath(name)
    names = (name, f"{name}.yaml")
    for path in names:
        if files.exists(path) and not files.is_folder(path):
            return path
    for path in names:
        if os.sep not in name and (SHIPPED / path).is_file():
            return str(SHIPPED / path)
    near = difflib.get_close_matches(name.removesuffix(".yaml"), shipped_stems(), n=1, cutoff=0.5)
    near = [f"{stem}.yaml" if name.endswith(".yaml") else stem for stem in near]
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


def all_keys() -> list[str]:
    """Every section.key that an override of some config may name."""
    keys = {key for kind in _BY_NETWORK.values() for key in _keys(kind) if "." in key}
    return sorted(keys | set(ROOT_KEYS))


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
        content = _from_yaml(files.read_text(file), _TEXT_KEYS)
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


def add_arguments(parser: command.Parser) -> None:
    """`--config` and its overrides, the same for every command."""
    parser.keys = all_keys
    config = parser.add_argument(
        "--config", type=paths.argument, required=True, help="a YAML file, or the name of a shipped one"
    )
    overrides = parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="e.g. model.width=16 train.epochs=2",
    )
    # For tab completion: what the shell offers.
    config.completer = lambda prefix, **_: [*shipped_stems(), *glob.glob(f"{glob.escape(prefix)}*")]
    overrides.completer = lambda **_: [f"{key}=" for key in all_keys()]


# --- YAML as it is written: it makes a date of 2024-05-01, a number of 007 and a truth of `on` ----------

_TEXT, _NULL, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "merge"))
_QUOTES = "between quotes"
_CURE = f"Put a name of a folder {_QUOTES}: 'NAME'"


class _EachKeyOnce(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, as its standard has it; PyYAML takes the last."""

    def compose_scalar_node(self, anchor):
        tag = self.peek_event().tag
        node = super().compose_scalar_node(anchor)
        node.is_plainly_text = anchor is None and tag in (None, _TEXT)
        return node

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} stands twice. Keep one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _from_yaml(content: str, text_keys: Collection[str]) -> Any:
    """What a YAML holds.

    Args:
        content: its text.
        text_keys: section.key of values that are texts, whatever they look like. `null`, `~` and nothing at all
            stay None: whoever means a folder of such a name puts it between quotes.

    Raises:
        yaml.YAMLError: it is none, or a key stands twice, or YAML takes letters of a text for its own.
    """
    try:
        return _read_yaml(content, text_keys)
    except yaml.MarkedYAMLError as error:
        lines = content.splitlines()
        marks = [mark.line for mark in (error.problem_mark, error.context_mark) if mark]
        names = {key.rpartition(".")[2] for key in text_keys}
        key = re.compile(rf"""[\s{{,?"']*({"|".join(map(re.escape, sorted(names)))})["']?\s*:""")
        if _QUOTES not in str(error) and any(key.match(lines[i]) for i in marks if i < len(lines)):
            error.note = _CURE
        raise


def _read_yaml(content: str, text_keys: Collection[str]) -> Any:
    loader = _EachKeyOnce(content)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if isinstance(root, yaml.MappingNode):
            sections = {key.partition(".")[0] for key in text_keys}
            root = _with(root, lambda name, node: _section(name, node, text_keys, content, sections))
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _with(mapping: yaml.MappingNode, change: Callable[[str, yaml.Node], yaml.Node]) -> yaml.MappingNode:
    """The mapping with its values changed by key: a new one, since an alias may stand for the old elsewhere."""
    pairs = []
    for key, value in mapping.value:
        if key.tag == _MERGE:
            raise _refused("<< puts keys of another place here. Write each key itself", key)
        pairs.append((key, change(key.value, value) if isinstance(key, yaml.ScalarNode) else value))
    return yaml.MappingNode(mapping.tag, pairs, mapping.start_mark, mapping.end_mark, mapping.flow_style)


def _section(name: str, node: yaml.Node, text_keys: Collection[str], content: str, sections: Collection[str]):
    if name not in sections or not isinstance(node, yaml.MappingNode):
        return node
    return _with(node, lambda key, value: _as_text(value, content) if f"{name}.{key}" in text_keys else value)


def _as_text(value: yaml.Node, content: str) -> yaml.Node:
    if not isinstance(value, yaml.ScalarNode):
        return value
    if not value.is_plainly_text:
        raise _refused(f"a name that begins with &, * or ! is none for YAML. {_CURE}", value)
    if value.tag == _NULL:
        return value
    _check_end(value, content)
    return yaml.ScalarNode(_TEXT, value.value, value.start_mark, value.end_mark, value.style)


def _refused(reason: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, reason, node.start_mark)


def _check_end(value: yaml.ScalarNode, content: str) -> None:
    """Refuses `exp #2`, of which YAML would leave `exp`: nobody can tell whether a comment was meant."""
    behind = re.compile(r"[ \t]+#\S[^\r\n\x85\u2028\u2029]*").match(content, value.end_mark.index)
    if value.style is None and behind:
        raise _refused(
            f"{value.value}{behind[0]}: what stands behind # is a comment for YAML. Put the name {_QUOTES}, "
            "or a space behind the #",
            value,
        )
