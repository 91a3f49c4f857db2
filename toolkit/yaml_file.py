"""YAML as plain data, with the place that every field was written at; and data as YAML that is read as it was."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from targets.errors import InvalidInput

__all__ = ["Document", "Place", "parse_yaml", "read_yaml", "write_yaml"]

Place = tuple[str | int, ...]
"""The names and numbers that lead to a field, from outside in."""

_FLOAT_TAG = "tag:yaml.org,2002:float"
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")


@dataclass(frozen=True)
class Document:
    """What was written, and where: `origins` holds texts such as "search.yaml:3"."""

    name: str
    data: Any
    origins: Mapping[Place, str]

    def origin(self, place: Sequence[str | int]) -> str:
        """Where the field at `place` stands; of one that is missing, where the mapping does that it belongs in."""
        for end in range(len(place), 0, -1):
            found = self.origins.get(tuple(place[:end]))
            if found is not None:
                return found
        return self.name


def read_yaml(path: Path) -> Document:
    """The one document in a file; an empty file is an empty mapping.

    Raises:
        InvalidInput: it cannot be read, is not YAML, asks for anything but plain data, or names a field twice.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not YAML: it is no text in UTF-8", hint="save it as UTF-8") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Document:
    """`text` as data; see `read_yaml`. Numbers are those of YAML 1.2: 3e-3 is one.

    Raises:
        InvalidInput: see `read_yaml`.
    """
    try:
        loader = _Loader(text)  # refuses some characters already
        loader.name = name
        node = loader.get_single_node()
        data = {} if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise InvalidInput(f"{name} is not YAML: {said}", hint="correct the line it names") from error
    return Document(name, data, {} if node is None else _origins(node, name))


def write_yaml(data: Any, *, width: int = 80) -> str:
    """Plain data as a text, fields in their order, lines of about `width` characters."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
    return text


class _Loader(yaml.SafeLoader):
    """Refuses a field that is named twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise InvalidInput(
                    f"{self.name}:{line}: {key.value} was given before, in line {seen[key.value]}",
                    hint="leave one of the two",
                )
            seen[str(key.value)] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as a text."""


def _read_as_now(kind: type[_Loader] | type[_Dumper]) -> None:
    """YAML 1.2's floats in place of 1.1's, where 3e-3 is a text."""
    kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _FLOAT_TAG]
        for first, resolvers in kind.yaml_implicit_resolvers.items()
    }
    kind.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))


_read_as_now(_Loader)
_read_as_now(_Dumper)


def _origins(node: yaml.Node, name: str) -> dict[Place, str]:
    """Each field's file and line. An alias stands where it is used; what it stands for is not walked again."""
    found: dict[Place, str] = {}
    walked: set[int] = set()

    def walk(node: yaml.Node, place: Place) -> None:
        if id(node) in walked:
            return
        walked.add(id(node))
        parts: list[tuple[str | int, int, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            parts = [(str(key.value), key.start_mark.line, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            parts = [(i, value.start_mark.line, value) for i, value in enumerate(node.value)]
        for part, line, value in parts:
            found[(*place, part)] = f"{name}:{line + 1}"
            walk(value, (*place, part))

    walk(node, ())
    return found
