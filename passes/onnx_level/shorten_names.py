"""Give every value the shortest name there is: of a small network, names are the larger part of the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, product
from string import ascii_letters
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.program import Program
from targets.errors import InvalidInput

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Names", "ShortenNames", "names_of", "restore_names"]


class Names(BaseModel):
    """What the values of a graph are called, and its nodes with what is known of them; in the order of the graph."""

    values: list[str]
    nodes: list[tuple[str | None, dict[str, str]]]


@dataclass(frozen=True)
class ShortenNames(Pass):
    """One or two letters for a value, none for a node; no comments and source lines.

    Inputs and outputs keep their names. `Program.named` holds the graph as it was called: reports read that.
    """

    kind = Kind.EXACT
    needs = frozenset({"exported"})
    gives = frozenset({"names_short"})
    prepares = True
    renames = True

    def requires(self, program: Program, ctx: Context) -> None:
        if program.model.functions:
            raise PassFailed(
                "the graph calls functions of its own", hint="put FoldConstants before, which inlines them"
            )

    def apply(self, program: Program, ctx: Context) -> Program:
        model = program.clone()
        _strip(model)
        kept = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
        _rename(model, (name for name in _short_names() if name not in kept))
        return replace(program.with_model(model), named=program)


def names_of(model: ir.Model) -> Names:
    """What the values and nodes of `model` are called, in the order of the graph."""
    return Names(
        values=[str(value.name) for value in _inner_values(model)],
        nodes=[(node.name, dict(sorted(node.metadata_props.items()))) for node in model.graph.all_nodes()],
    )


def restore_names(model: ir.Model, names: object) -> None:
    """Give `model` the names that `names_of` found before they were taken away.

    Raises:
        InvalidInput: they are no names, or those of another graph.
    """
    try:
        found = Names.model_validate(names)
    except ValidationError as error:
        raise InvalidInput("the names are not a list of texts for a graph", hint="compile again") from error
    nodes = list(model.graph.all_nodes())
    different = len(set(found.values)) != len(list(_inner_values(model)))
    if different or len(found.values) != len(set(found.values)) or len(found.nodes) != len(nodes):
        raise InvalidInput("the names are those of another graph", hint="compile again")
    _rename(model, found.values)
    for node, (name, metadata) in zip(nodes, found.nodes, strict=True):
        node.name = name
        node.metadata_props.update(metadata)


def _strip(model: ir.Model) -> None:
    """Take away what no runtime reads."""
    model.doc_string = model.producer_name = model.producer_version = None
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.name, graph.doc_string = "g", None
        graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.name = node.doc_string = None
        node.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *_inner_values(model)):
        value.doc_string = None
        value.metadata_props.clear()
        if value.is_initializer() and not value.is_graph_input() and not value.is_graph_output():
            value.shape = value.type = None  # the constant has both


def _rename(model: ir.Model, names: Iterable[str]) -> None:
    """Call the inner values `names`, in order."""
    values = list(_inner_values(model))
    for i, value in enumerate(values):
        value.name = f"\0{i}"  # out of the way: two constants may never share a name, not even in passing
    for value, name in zip(values, names, strict=False):
        value.name = name


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    """What is called by a name and is neither an input nor an output of the model, in the order of the graph."""
    outer = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    for graph in model.graphs():
        made = (value for node in graph for value in node.outputs if value.name)
        yield from (v for v in (*graph.inputs, *graph.initializers.values(), *made) if id(v) not in outer)


def _short_names() -> Iterator[str]:
    for length in count(1):
        yield from map("".join, product(ascii_letters, repeat=length))
