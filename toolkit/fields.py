"""A document held against a model of its fields: every mistake, each where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from targets.errors import InvalidInput
from toolkit.yaml_file import Document

__all__ = ["Mistake", "checked", "refusal"]

M = TypeVar("M", bound=BaseModel)

Mistake = tuple[str, str]
"""What is wrong, and what to write instead."""

_SHOWN = 60


def checked(kind: type[M], document: Document) -> M:
    """`document` as a `kind`.

    Raises:
        InvalidInput: it is no mapping, or fields are unknown, missing, of another type, or out of range.
    """
    if not isinstance(document.data, dict):
        raise InvalidInput(
            f"{document.name} is not a mapping of fields", hint=f"fields: {', '.join(kind.model_fields)}"
        )
    try:
        return kind.model_validate(document.data)
    except ValidationError as error:
        raise refusal(document.name, [_mistake(kind, document, details) for details in error.errors()]) from error


def refusal(name: str, mistakes: Sequence[Mistake]) -> InvalidInput:
    """Of what is called `name`: its one mistake, or a list of all."""
    if len(mistakes) == 1:
        ((problem, hint),) = mistakes
        return InvalidInput(problem, hint=hint)
    listed = "".join(f"\n  {problem} ({hint})" for problem, hint in mistakes)
    return InvalidInput(f"{name} has {len(mistakes)} mistakes:{listed}", hint="correct each of them")


def _mistake(kind: type[BaseModel], document: Document, error: ErrorDetails) -> Mistake:
    at, where = ".".join(map(str, error["loc"])), document.origin(error["loc"])
    known = list(_owner(kind, error["loc"][:-1]).model_fields)
    if error["type"] == "extra_forbidden":
        near = get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"fields: {', '.join(known)}"
        return f"{where}: there is no field {at}", hint
    if error["type"] == "missing":
        return f"{where}: {at} is missing", f"fields: {', '.join(known)}"
    given = repr(error["input"])
    shown = given if len(given) <= _SHOWN else given[: _SHOWN - 3] + "..."
    if error["type"] == "model_type":
        inner = list(_owner(kind, error["loc"]).model_fields)
        return f"{where}: {at} = {shown} is not allowed: it has fields of its own", f"fields: {', '.join(inner)}"
    said = error["msg"][:1].lower() + error["msg"][1:]
    return f"{where}: {at} = {shown} is not allowed: {said}", _hint(at, error["input"], error["type"])


def _hint(at: str, given: Any, kind: str) -> str:
    if kind == "literal_error":
        return "give one of them"
    if kind == "bool_type":
        return "write true or false"
    if kind == "dict_type":
        return "write its fields below it, as `name: value`"
    if kind == "list_type":
        return "write a list, as [1, 2]"
    if isinstance(given, str):
        try:
            return f"write the number without quotes: {at}: {float(given)!r}"
        except ValueError:
            return "give a value of that type, without a unit"
    return "give a value of that type and range"


def _owner(kind: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The class of the mapping that the field at `place` stands in."""
    for part in place:
        field = kind.model_fields.get(str(part))
        kind = _model_in(field.annotation if field else None) or kind
    return kind


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model`, `Model | None`, `list[Model]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
