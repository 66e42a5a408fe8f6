"""A YAML as nested mappings, with what names a place kept as it is written.

YAML makes a date of 2024-05-01, a number of 007 and a truth of `on`: none of them is the folder that is meant.
"""

import re
from collections.abc import Collection
from typing import Any

import yaml

_TEXT, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"


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


def parsed(content: bytes, text_keys: Collection[str]) -> Any:
    """What a YAML holds.

    Args:
        text_keys: section.key of values that are texts, whatever they look like. `null`, `~` and nothing at all
            stay None: whoever means a folder of such a name puts it between quotes.

    Raises:
        yaml.YAMLError: it is none, or a key stands twice.
    """
    loader = _EachKeyOnce(content)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        for section, node in _entries(root):
            for key, value in _entries(node):
                if f"{section}.{key}" in text_keys and _is_scalar(value) and value.tag != _NULL:
                    _check_end(value, content)
                    value.tag = _TEXT
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _check_end(value: yaml.ScalarNode, content: bytes) -> None:
    """Refuses `exp #2`, of which YAML would leave `exp`: nobody can tell whether a comment was meant."""
    end = value.end_mark
    lines = content.decode(errors="replace").splitlines()
    behind = lines[end.line][end.column :] if value.style is None and end.line < len(lines) else ""
    if re.match(r"\s+#\S", behind):
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"{value.value}{behind}: what stands behind # is a comment for YAML. Put the name between quotes, "
            "or a space behind the #",
            value.start_mark,
        )


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _entries(node: yaml.Node) -> list[tuple[str, yaml.Node]]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return [(key.value, value) for key, value in pairs if _is_scalar(key)]
