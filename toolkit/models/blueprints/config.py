"""What every blueprint's config has in common, and how a wrong one is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails

from targets.errors import InvalidInput
from toolkit.fields import Mistake, refusal
from toolkit.yaml_file import Place

__all__ = ["BlueprintConfig", "ConfigRefused", "Setting", "parse", "settings"]

C = TypeVar("C", bound="BlueprintConfig")


class BlueprintConfig(BaseModel):
    """Frozen, strict about types, without unknown fields; lists stand for tuples. A field's docstring says what it
    means.

    A check of several fields at once goes into a `model_validator(mode="after")` that raises InvalidInput.

    Raises:
        ConfigRefused: a field does not exist, has another type, or is out of its range.
        InvalidInput: fields do not go together.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the weights."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, Mapping):
            data = {name: _tuples(value) for name, value in data.items()}
        try:
            return handler(data)
        except ValidationError as error:
            raise _refusal(cls, error.errors()) from error


class ConfigRefused(InvalidInput):
    """Fields of a config that do not exist or are wrong.

    Args:
        mistakes: Each beside the place of its field, for who knows where that was written.
    """

    def __init__(self, owner: str, mistakes: Sequence[tuple[Place, Mistake]]) -> None:
        told = refusal(owner, [mistake for _, mistake in mistakes])
        super().__init__(told.problem, hint=told.hint)
        self.mistakes = mistakes


@dataclass(frozen=True)
class Setting:
    """One field of a config, for people: `allowed` is its type and range, as "integer, 1 to 64"."""

    name: str
    allowed: str
    default: Any
    meaning: str


def parse(config: type[C], fields: Mapping[str, Any]) -> C:
    """A config from what a file or a command line holds.

    Raises:
        ConfigRefused: a field does not exist, has another type, or is out of its range.
        InvalidInput: fields do not go together.
    """
    return config.model_validate(fields)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def settings(config: type[BlueprintConfig]) -> list[Setting]:
    """Every field, in the order of the class, the seed last."""
    described = config.model_json_schema()
    fields = sorted(config.model_fields, key=lambda name: name == "seed")
    return [
        Setting(
            name,
            _allowed(described["properties"][name], described.get("$defs", {})),
            config.model_fields[name].get_default(call_default_factory=True),
            " ".join((config.model_fields[name].description or "").split()),
        )
        for name in fields
    ]


# ---- words for a refusal


def _refusal(config: type[BlueprintConfig], errors: Sequence[ErrorDetails]) -> ConfigRefused:
    known = {setting.name: setting for setting in settings(config)}
    owner = config.__module__.rpartition(".")[2]
    return ConfigRefused(owner, [(error["loc"], _mistake(owner, known, error)) for error in errors])


def _mistake(owner: str, known: Mapping[str, Setting], error: ErrorDetails) -> Mistake:
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"fields: {', '.join(known)}"
        return f"{owner} has no field {name!r}", hint
    if name not in known:
        return f"{owner}: {error['msg']}", f"fields: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{owner}: {name} is missing", f"{name} is {known[name].allowed}"
    at = "".join(f"[{part}]" for part in error["loc"][1:])
    given = repr(error["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    return f"{owner}: {name}{at} = {shown} is not allowed: {error['msg'].lower()}", f"{name} is {known[name].allowed}"


_LIMITS = (
    ("minimum", "from {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "to {}"),
    ("exclusiveMaximum", "below {}"),
    ("multipleOf", "in steps of {}"),
)


def _allowed(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """JSON schema of a field in words."""
    if "$ref" in schema:
        return _allowed(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(_allowed(part, definitions) for part in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    if "const" in schema:
        return repr(schema["const"])
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return _list(schema, definitions)
    limits = " ".join(words.format(_number(schema[key])) for key, words in _LIMITS if key in schema)
    return f"{kind}, {limits}" if limits else kind


def _list(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"list of {'; '.join(_allowed(part, definitions) for part in schema['prefixItems'])}"
    low, high = schema.get("minItems", 0), schema.get("maxItems")
    count = f"{low}" if low == high else f"{low} to {high}" if high else f"{low} or more" if low else ""
    return " ".join(f"list of {count} ({_allowed(schema.get('items', {}), definitions)})".split())


def _number(value: float) -> str:
    exponent = int(value).bit_length() - 1
    if exponent > 30 and value == 2**exponent:
        return f"2^{exponent}"
    return f"{value:,.0f}" if value >= 1e5 and value == int(value) else f"{value:g}"
