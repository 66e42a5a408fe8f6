"""Writes docs/reference/commands.md and config.md from the code, so that they cannot say anything else.

    python docs/generate.py

commands.md comes from the parsers that the commands use themselves. config.md comes from the models of
`tfbrats/config.py` and `config_sections.py` (types, allowed values; the comment behind a key is its meaning)
and from the shipped YAML files (values). tests/test_docs.py fails when either is not current.

serving/tfs.protoset, TensorFlow Serving's calls for programs in any language, comes from the official stubs
(tensorflow-serving-api, grpcio-health-checking); tests/serving/test_protoset.py fails when it is not current.
"""

import argparse
import ast
import io
import pathlib
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator

import pydantic

from tfbrats import config, config_file, config_sections
from tfbrats.terminal import completion, verbs

HERE = pathlib.Path(__file__).parent
COMMANDS, CONFIG = HERE / "reference" / "commands.md", HERE / "reference" / "config.md"
PROTOSET = HERE.parent / "serving" / "tfs.protoset"
WIDTH = 112  # of the text; a table's row is one line
MADE_BY = "<!-- Made by `python docs/generate.py`. Change the code, and run that again. -->"

# --- commands -------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command: what it does, its options, what they mean."""
    blocks = [
        "# Commands",
        MADE_BY,
        _filled(
            "`tfbrats WORD --help` prints the same. Options that several commands share mean the same in "
            "all of them: [the table of words](words.md). Old names keep working."
        ),
    ]
    group = ""
    for verb in verbs.VERBS:
        if verb.group != group:
            group = verb.group
            of_group = [verb for verb in verbs.VERBS if verb.group == group]
            rows = [(f"[`{verb.word}`](#{verb.word})", verb.line) for verb in of_group]
            blocks.append(_table((group, ""), rows))
    for verb in verbs.VERBS:
        blocks += [f"## {verb.word}", *_command(completion.parser_of(verb))]
    return "\n\n".join(blocks) + "\n"


def _command(parser: argparse.ArgumentParser, depth: int = 3) -> Iterator[str]:
    """A parser's description, its usage, its options; then those of its own words, as `records show`."""
    yield from _description(parser.description or "")
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    inner = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    actions = [action for action in actions if action not in inner and action.help != argparse.SUPPRESS]
    if actions:
        yield f"```console\n{_usage(parser, actions)}\n```"
        yield _table(("argument", "means"), [_row(parser, action) for action in actions])
    for action in inner:
        for word, child in action.choices.items():
            yield f"{'#' * depth} {parser.prog.removeprefix('tfbrats ')} {word}"
            yield from _command(child, depth + 1)


def _description(text: str) -> Iterator[str]:
    """Paragraphs, and commands in blocks of their own."""
    for block in re.split(r"\n\s*\n", textwrap.dedent(text).strip()):
        if re.match(r"\s", block):
            yield f"```console\n{textwrap.dedent(block)}\n```"
        else:
            yield _filled(_escaped(" ".join(block.split())))


def _usage(parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    """What a call needs at least: `tfbrats predict --model MODEL ... [options]`."""
    needed = [_spelled(a) for a in actions if a.option_strings and a.required]
    free = [a for a in actions if not a.option_strings]
    places = [_spelled(a) if a.nargs in (None, "+") else f"[{_spelled(a)}]" for a in free]
    optional = any(a.option_strings and not a.required for a in actions)
    return " ".join((parser.prog, *needed, *(["[options]"] if optional else []), *places))


def _spelled(action: argparse.Action) -> str:
    """`--case ID`, or the name of a positional argument."""
    metavar = action.metavar or action.dest.upper()
    values = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    if not action.option_strings:
        return f"{values} ..." if action.nargs in ("*", "+") else values
    name = action.option_strings[-1]
    if action.nargs == 0:
        return name
    return f"{name} [{values}]" if action.nargs == "?" else f"{name} {values}"


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    means = [_escaped(parser._get_formatter()._expand_help(action)) if action.help else ""]
    if action.choices:
        means.append(f"One of {', '.join(f'`{choice}`' for choice in action.choices)}")
    if action.option_strings and action.required:
        means.append("Required")
    old = [name for name, new in getattr(parser, "_new_names", {}).items() if new in action.option_strings]
    if old:
        means.append(f"Old name: {', '.join(f'`{name}`' for name in old)}")
    return "`" + _spelled(action).replace("|", r"\|") + "`", ". ".join(filter(None, means))


# --- config ---------------------------------------------------------------------------------------------

ROWS = {  # name for a group of rows -> the shipped files of it
    "paper A": ("unet2d", "bfcn", "drn", "cun", "cun_lws"),
    "paper B": ("unet3d", "msm_noaspp", "msm"),
    "smoke_2d": ("smoke_2d",),
    "smoke_3d": ("smoke_3d",),
}


def config_page() -> str:
    """Every key of a config: type, meaning, and the shipped values."""
    shipped = {name: config_file.load(f"{name}.yaml") for names in ROWS.values() for name in names}
    meanings = comments_of_fields()
    blocks = [
        "# Config keys",
        MADE_BY,
        _filled(
            "A config is a YAML file with these keys. Every key that its row has is required, and an unknown "
            "one is an error: nothing has a default outside the YAML, but for keys that came later "
            f"({', '.join(f'`{key}`' for key in _later())}). Where a config of an older run does not "
            "have them, they mean what was done then. `tfbrats train --config cun "
            "train.epochs=20` changes a value on the command line; `null`, `true` and lists such as `[3,1,1]` "
            "are written as in YAML. [The readings](../why/papers.md#readings) say which values are ours."
        ),
    ]
    for section, members in _sections(shipped).items():
        blocks.append(f"## {section}" if section else "## At the top")
        blocks += _section_texts(members) if section else []
        rows: dict[tuple[str, str, str], None] = {}
        for kind in members.values():
            for key, field in kind.model_fields.items():
                if not _is_section(field.annotation):
                    rows[(key, described(field.annotation, field.metadata), meanings[kind, key])] = None
        blocks.append(
            _table(
                ("key", "value", "means", "shipped"),
                [
                    (
                        f"`{section}.{key}`" if section else f"`{key}`",
                        kind,
                        _escaped(meaning),
                        _shipped(shipped, section, key, kind),
                    )
                    for key, kind, meaning in rows
                ],
            )
        )
    return "\n\n".join(blocks) + "\n"


def _later() -> list[str]:
    """The keys that have a default: those that configs of older runs lack."""
    kinds = (config.SliceConfig, config.PatchConfig)
    sections = {(key, field.annotation) for kind in kinds for key, field in kind.model_fields.items()}
    return sorted(
        {
            f"{section}.{key}"
            for section, kind in sections
            if _is_section(kind)
            for key, field in kind.model_fields.items()
            if not field.is_required()
        }
    )


def _sections(shipped: dict[str, pydantic.BaseModel]) -> dict[str, dict[str, type]]:
    """Section ("" for the top) -> the models that it has in the shipped files, by their names."""
    sections: dict[str, dict[str, type]] = {}
    for settings in shipped.values():
        for key, field in type(settings).model_fields.items():
            if _is_section(field.annotation):
                sections.setdefault(key, {})[field.annotation.__name__] = field.annotation
            else:
                sections.setdefault("", {})[type(settings).__name__] = type(settings)
    return dict(sorted(sections.items(), key=lambda item: item[0] != ""))


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def _section_texts(members: dict[str, type]) -> list[str]:
    """What a section is: its docstring, or that of a model above it; by paper if need be."""
    texts = {}
    for name, kind in members.items():
        docs = (
            parent.__dict__.get("__doc__") for parent in kind.__mro__ if parent is not config_sections.Section
        )
        texts[name] = next((" ".join(doc.split()) for doc in docs if doc), "")
    if len(set(texts.values())) == 1:
        return [_filled(_escaped(next(iter(texts.values()))))]
    papers = {"Slice": "Paper A", "Patch": "Paper B"}
    return [
        _filled(_escaped(text if "paper" in text else f"{paper}: {text}"))
        for start, paper in papers.items()
        for text in dict.fromkeys(text for name, text in texts.items() if name.startswith(start))
    ]


def described(annotation: object, limits: typing.Sequence[object] = ()) -> str:
    """The values that a key may have, in words."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return described(inner[0], (*inner[1:], *limits))
    if origin is typing.Literal:
        return _listed([f"`{value}`" for value in inner])
    if origin in (typing.Union, types.UnionType):
        return _listed(list(dict.fromkeys(described(part, limits) for part in inner)))
    if origin is tuple:
        parts = [described(part) for part in inner if part is not Ellipsis]
        return f"a list of {parts[0]}" if Ellipsis in inner else f"a list: {', '.join(parts)}"
    if annotation is type(None):
        return "`null`"
    names = {int: "whole number", float: "number", bool: "`true` or `false`", str: "name of a folder"}
    return " ".join((names[annotation], *_bounds(limits)))


def _listed(values: list[str]) -> str:
    """a, b or c."""
    return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))


def _bounds(limits: typing.Sequence[object]) -> Iterator[str]:
    """Bounds as pydantic keeps them: annotated_types, or the metadata of a Field."""
    signs = {"gt": "over", "ge": "from", "lt": "below", "le": "to", "multiple_of": "in steps of"}
    flat = [part for limit in limits for part in getattr(limit, "metadata", [limit])]
    for name, word in signs.items():
        for limit in flat:
            value = getattr(limit, name, None)
            if value is not None:
                yield f"{word} {value}"


def comments_of_fields() -> dict[tuple[type, str], str]:
    """(model, key) -> the comment behind the key in config.py or config_sections.py.

    Raises:
        ValueError: a key has none.
    """
    own = {}
    for module in (config_sections, config):
        own |= _comments_in(pathlib.Path(module.__file__).read_text(encoding="utf-8"))
    found: dict[tuple[type, str], str] = {}
    for kind in vars(config).values():
        if _is_section(kind):
            for key, field in kind.model_fields.items():
                names = [parent.__name__ for parent in kind.__mro__]
                found[kind, key] = next(own[name, key] for name in names if (name, key) in own)
                if not found[kind, key] and not _is_section(field.annotation):
                    raise ValueError(f"{config.__file__}: no comment tells what {kind.__name__}.{key} is")
    return found


def _comments_in(source: str) -> dict[tuple[str, str], str]:
    """(class, key) -> the comment behind the key, "" where there is none."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return {
        (node.name, field.target.id): comments.get(field.lineno, "")
        for node in ast.parse(source).body
        for field in (node.body if isinstance(node, ast.ClassDef) else [])
        if isinstance(field, ast.AnnAssign)
    }


def _shipped(shipped: dict[str, pydantic.BaseModel], section: str, key: str, kind: str) -> str:
    """`50` paper A; `10` paper B: the values of the shipped files whose key is of this kind, grouped."""
    values: dict[str, str] = {}
    for name, settings in shipped.items():
        part = getattr(settings, section, None) if section else settings
        field = type(part).model_fields.get(key) if part is not None else None
        if field is not None and described(field.annotation, field.metadata) == kind:
            values[name] = _as_yaml(getattr(part, key))
    owners: dict[str, list[str]] = {}
    for group, names in ROWS.items():
        of_group = {name: values[name] for name in names if name in values}
        if len(of_group) == len(names) and len(set(of_group.values())) == 1:
            owners.setdefault(of_group[names[0]], []).append(group)
        else:
            for name, value in of_group.items():
                owners.setdefault(value, []).append(name)
    if len(owners) == 1 and len(values) == len(shipped):
        return f"`{next(iter(owners))}`"
    return "; ".join(f"`{value}` {', '.join(names)}" for value, names in owners.items())


def _as_yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


# --- Markdown -------------------------------------------------------------------------------------------


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _escaped(text: str) -> str:
    """Text of the code, with what Markdown would take for tags or columns as it is."""
    text = re.sub(r"(?<![`\w])(--[a-z][\w-]*)", r"`\1`", text) if "`" not in text else text
    pieces = re.split(r"(`[^`]*`)", text)
    plain = (re.sub(r"([*_|])", r"\\\1", piece.replace("<", "&lt;")) for piece in pieces[::2])
    code = (piece.replace("|", r"\|") for piece in pieces[1::2])
    return "".join(part for pair in zip(plain, (*code, ""), strict=True) for part in pair)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- TensorFlow Serving's calls -------------------------------------------------------------------------


def protoset() -> bytes:
    """A FileDescriptorSet of PredictionService, ModelService and Health: each file after those it imports.

    As protoc's --descriptor_set_out would write it: stubs leave out the names of fields in JSON.
    """
    from google.protobuf import descriptor_pb2
    from grpc_health.v1 import health_pb2
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

    files = {}

    def add_names(said, known) -> None:
        for field in said.field:
            field.json_name = known.fields_by_name[field.name].json_name
        for inner in said.nested_type:
            add_names(inner, known.nested_types_by_name[inner.name])

    def add(file) -> None:
        for needed in file.dependencies:
            add(needed)
        files[file.name] = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
        for message in files[file.name].message_type:
            add_names(message, file.message_types_by_name[message.name])

    for stubs in (prediction_service_pb2, model_service_pb2, health_pb2):
        add(stubs.DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString(deterministic=True)


def made() -> dict[pathlib.Path, bytes]:
    """Each generated file, and what it should hold."""
    return {COMMANDS: commands_page().encode(), CONFIG: config_page().encode(), PROTOSET: protoset()}


if __name__ == "__main__":
    for path, content in made().items():
        path.write_bytes(content)
        print(path.relative_to(HERE.parent))
