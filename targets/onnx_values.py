"""Facts about single values and nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from math import ceil, prod
from typing import TYPE_CHECKING

from targets.operators import VIEWS

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["all_inputs", "bodies", "bytes_of", "dtype_name", "is_random", "is_view", "live_nodes", "producer_type",
           "shape_of", "stored", "upstream"]  # fmt: skip


def live_nodes(graph: ir.Graph) -> set[int]:
    """Those that an output of the graph needs, by identity."""
    live: set[int] = set()
    stack = [v.producer() for v in graph.outputs]
    while stack:
        node = stack.pop()
        if node is None or id(node) in live or node.graph is not graph:
            continue
        live.add(id(node))
        stack += [v.producer() for v in all_inputs(node)]
    return live


def all_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs of a node and whatever its subgraphs capture from outside."""
    yield from (v for v in node.inputs if v is not None)
    for attribute in node.attributes.values():
        for body in bodies(attribute):
            for inner in body:
                yield from all_inputs(inner)


def bodies(attribute: ir.Attr) -> Sequence[ir.Graph]:
    """The graphs within an attribute."""
    kind = attribute.type.name
    if kind == "GRAPH":
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if kind == "GRAPHS" else []


def is_view(node: ir.Node) -> bool:
    """Whether it gives the same bytes another shape."""
    return node.op_type in VIEWS and not node.domain


def is_random(node: ir.Node) -> bool:
    """Whether its result is another one every time, constant inputs or not."""
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")


def upstream(value: ir.Value, known: dict[int, ir.Value], passes: Callable[[ir.Node, ir.Value], bool]) -> ir.Value:
    """Back along the first inputs of nodes that `passes`; `known` keeps what was found: no chain is walked twice."""
    walked = []
    while (found := known.get(id(value))) is None:
        walked.append(id(value))
        producer = value.producer()
        source = producer.inputs[0] if producer is not None and producer.inputs else None
        if producer is None or source is None or not passes(producer, source):
            found = value
            break
        value = source
    known.update(dict.fromkeys(walked, found))
    return found


def stored(value: ir.Value) -> ir.Value:
    """The constant as it lies in the file: behind a DequantizeLinear, the integers."""
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear" and producer.inputs[0] is not None:
        return producer.inputs[0]
    return value


def producer_type(value: ir.Value) -> str:
    """Of the operator that computes it; empty for inputs and constants."""
    producer = value.producer()
    return producer.op_type if producer is not None else ""


def shape_of(value: ir.Value) -> tuple[int, ...] | None:
    """None where a dimension is unknown."""
    if value.shape is None:
        return None
    dims = tuple([d for d in value.shape.dims if isinstance(d, int)])
    return dims if len(dims) == len(value.shape.dims) else None


def dtype_name(value: ir.Value) -> str:
    """The numpy name of a tensor's element type; empty where the graph does not say."""
    return _type_name(value.dtype) if value.dtype is not None else ""


@cache
def _type_name(dtype: ir.DataType) -> str:
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def bytes_of(value: ir.Value) -> int:
    """0 where shape or type are unknown."""
    shape = shape_of(value)
    if shape is None or value.dtype is None or value.dtype.name == "STRING":
        return 0  # text has no fixed size, and no device here takes it
    return ceil(prod(shape) * value.dtype.itemsize)
