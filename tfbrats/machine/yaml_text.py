"""A YAML as nested mappings, with what names a place kept as it is written.

YAML makes a date of 2024-05-01, a number of 007 and a truth of `on`: none of them is the folder that is meant.
"""

import re
from collections.abc import Callable, Collection
from typing import Any

import yaml

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


def parsed(content: str, text_keys: Collection[str]) -> Any:
    """What a YAML holds.

    Args:
        content: its text.
        text_keys: section.key of values that are texts, whatever they look like. `null`, `~` and nothing at all
            stay None: whoever means a folder of such a name puts it between quotes.

    Raises:
        yaml.YAMLError: it is none, or a key stands twice, or YAML takes letters of a text for its own.
    """
    try:
        return _parsed(content, text_keys)
    except yaml.MarkedYAMLError as error:
        lines = content.splitlines()
        marks = [mark.line for mark in (error.problem_mark, error.context_mark) if mark]
        names = {key.rpartition(".")[2] for key in text_keys}
        key = re.compile(rf"""[\s{{,?"']*({"|".join(map(re.escape, sorted(names)))})["']?\s*:""")
        if _QUOTES not in str(error) and any(key.match(lines[i]) for i in marks if i < len(lines)):
            error.note = _CURE
        raise


def _parsed(content: str, text_keys: Collection[str]) -> Any:
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
