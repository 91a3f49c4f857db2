"""What a runtime's parser reads of a graph: the list of operators by version in `parsers/`, and their forms by check.

A parser differs from an accelerator with a host beside it (targets/support.py): what it refuses runs nowhere.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.errors import UnknownName

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Parser", "Unread", "load_parser", "parser_names", "unread"]

_Version = tuple[int, ...]


@dataclass(frozen=True)
class Unread:
    """A node that a parser does not read, and why."""

    op_type: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Parser:
    """One version of a parser. `opset` is the newest that it reads."""

    title: str
    version: _Version
    opset: int
    operators: frozenset[str]
    source: str

    @property
    def name(self) -> str:
        return f"{self.title} {'.'.join(map(str, self.version))}"


def parser_names() -> list[str]:
    """Every list and version, as `load_parser` takes them."""
    return [f"{title}-{version}" for title in _lists() for version in _data(title)["opsets"]]


@cache
def load_parser(name: str) -> Parser:
    """`tensorrt-8.2`: the list of `parsers/tensorrt.toml` as of that version.

    Raises:
        UnknownName: there is no such list or version.
    """
    title, _, version = name.rpartition("-")
    if name not in parser_names():
        raise UnknownName("parser", name, parser_names())
    data = _data(title)
    wanted = _version(version)
    operators = {op for since, names in data["since"].items() if _version(since) <= wanted for op in names}
    return Parser(
        title=data["name"],
        version=wanted,
        opset=data["opsets"][version],
        operators=frozenset(operators),
        source=data["source"],
    )


def _lists() -> list[str]:
    return sorted(p.name.removesuffix(".toml") for p in files("targets").joinpath("parsers").iterdir())


@cache
def _data(title: str) -> Mapping[str, Any]:
    return tomllib.loads(files("targets").joinpath("parsers", f"{title}.toml").read_text("utf-8"))


def _version(text: str) -> _Version:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def unread(model: ir.Model, parser: Parser) -> list[Unread]:
    """Every node of `model` that `parser` does not read, those in bodies of control flow among them; inputs too."""
    found = [
        Unread(node.op_type, node.name or "unnamed", reason)
        for node in model.graph.all_nodes()
        if (reason := _why(node, parser))
    ]
    if parser.version < (8, 5):
        found += [Unread("input", str(v.name), f"{parser.name} takes no uint8 inputs") for v in model.graph.inputs
                  if v.dtype is not None and v.dtype.name == "UINT8"]  # fmt: skip
    return found


def _why(node: ir.Node, parser: Parser) -> str:
    if node.domain not in ("", "ai.onnx"):
        return f"operators of {node.domain} need a plugin"
    if node.op_type not in parser.operators:
        return f"it is not in the operator list of {parser.name}"
    return _FORMS.get(node.op_type, _any_form)(node, parser)


# ---- forms


def _any_form(node: ir.Node, parser: Parser) -> str:
    return ""


def _symmetric(node: ir.Node, parser: Parser) -> str:
    """Integers are int8 around zero; a QuantizeLinear that says no zero point makes uint8."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and (zero.const_value is None or np.any(zero.const_value.numpy())):
        return f"its zero point is not 0, which {parser.name} wants"
    integers = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    unsigned = integers is not None and integers.dtype is not None and integers.dtype.name.startswith("UINT")
    return f"{parser.name} reads signed integers alone" if unsigned else ""


def _without_indices(node: ir.Node, parser: Parser) -> str:
    used = len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output())
    return f"{parser.name} does not give the indices of a maximum" if used else ""


def _linear_or_nearest(node: ir.Node, parser: Parser) -> str:
    mode = node.attributes.get_string("mode", "nearest")
    return f"{parser.name} resizes by nearest and linear, not {mode}" if mode not in ("nearest", "linear") else ""


def _constant_weights(node: ir.Node, parser: Parser) -> str:
    """From 8.5 on weights may be computed."""
    weights = node.inputs[1]
    while weights is not None and (made := weights.producer()) is not None and made.op_type in _STORED:
        weights = made.inputs[0] if made.inputs else None
    constant = weights is None or weights.const_value is not None
    return "" if constant or parser.version >= (8, 5) else f"{parser.name} wants its weights constant"


_STORED = ("Constant", "DequantizeLinear", "QuantizeLinear", "Cast", "Identity")
_FORMS: Mapping[str, Callable[[ir.Node, Parser], str]] = {
    "Conv": _constant_weights,
    "ConvTranspose": _constant_weights,
    "DequantizeLinear": _symmetric,
    "MaxPool": _without_indices,
    "QuantizeLinear": _symmetric,
    "Resize": _linear_or_nearest,
}
