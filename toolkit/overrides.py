"""What stands above a file: the environment, then the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from targets.errors import InvalidInput, UsageError
from toolkit.yaml_file import Document, Place, parse_yaml

__all__ = ["PREFIX", "layered"]

PREFIX = "TOOLKIT__"
"""`TOOLKIT__METHODS__RECOMPUTE=true` stands for the field methods.recompute."""


def layered(document: Document, environ: Mapping[str, str], settings: Iterable[str] = ()) -> Document:
    """`document`, over it the fields that variables of `environ` set, and over those `settings` such as "seed=3".

    Values are YAML. Variables are read by name, so that their order says nothing.

    Raises:
        UsageError: a setting is not of that form, or a value is not YAML.
        InvalidInput: the document is not a mapping of fields, or a setting goes into what is none.
    """
    said: list[tuple[Place, str, str]] = [
        (tuple(name.removeprefix(PREFIX).lower().split("__")), environ[name], name)
        for name in sorted(environ)
        if name.startswith(PREFIX)
    ]
    said += [_setting(text) for text in settings]
    if not said:
        return document
    if not isinstance(document.data, dict):
        raise InvalidInput(f"{document.name} is not a mapping of fields", hint="write fields as `name: value`")
    data, origins = dict(document.data), dict(document.origins)
    for place, text, origin in said:
        _put(data, place, _value(text, origin), origin)
        origins = {at: where for at, where in origins.items() if at[: len(place)] != place}
        origins[place] = origin
    return Document(document.name, data, origins)


def _setting(text: str) -> tuple[Place, str, str]:
    name, equals, value = text.partition("=")
    place = tuple(name.strip().split("."))
    if not equals or not all(place):
        raise UsageError(f"--set {text!r} sets nothing", hint="write it like --set methods.recompute=true")
    return place, value, f"--set {name.strip()}"


def _value(text: str, origin: str) -> Any:
    try:
        return parse_yaml(text, origin).data if text.strip() else None
    except InvalidInput as error:
        raise UsageError(f"{origin}: {text!r} is no value", hint="values are YAML: 3, 0.5, true, [1, 2]") from error


def _put(data: dict[str, Any], place: Place, value: Any, origin: str) -> None:
    """Change `data`, and copies of the mappings in it, which an alias may share with another field."""
    for part in place[:-1]:
        inner = data.get(str(part))
        if not isinstance(inner, dict | None):
            raise InvalidInput(f"{origin}: {part} is {inner!r}, which has no fields", hint="set the field itself")
        data[str(part)] = data = dict(inner or {})
    data[str(place[-1])] = value
