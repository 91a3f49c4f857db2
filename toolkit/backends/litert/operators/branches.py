"""Branches: each becomes a network of its own in the file, of which the interpreter runs one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from toolkit.backends.litert.layout import identity
from toolkit.backends.litert.lowering import Lower, Lowering, Refused, dtype_of
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.tensors import Draft, Operator, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LOWERINGS"]

_BODIES = {"then_branch": "then_subgraph_index", "else_branch": "else_subgraph_index"}


def _if(lowering: Lowering, step: Step) -> None:
    """Both branches take everything that either of them reads of the graph around, as floats."""
    graphs = {_BODIES[name]: step.node.attributes[name].as_graph() for name in _BODIES}
    condition = step.input(0)
    if condition is None or lowering.is_constant(condition):
        raise Refused("has a condition that is always the same")
    read = dict.fromkeys(v for graph in graphs.values() for v in _from_outside(graph) if not lowering.is_constant(v))
    outer = {value: lowering.laid(value, identity(len(lowering.shape(value))), real=True) for value in read}
    bodies = {key: _with_own_results(lowering.body(graph, outer)) for key, graph in graphs.items()}
    shape, dtype = lowering.shape(step.output), dtype_of(step.output)
    if any((t.shape, t.dtype) != (shape, dtype) for body in bodies.values() for t in body.outputs.values()):
        raise Refused("has branches whose results differ in shape or type")
    choice = lowering.laid(condition, identity(len(lowering.shape(condition))))
    made = lowering.emit("IF", [choice, *outer.values()], shape, dtype, bodies=bodies)
    lowering.set(step.output, made, identity(len(shape)))


def _from_outside(graph: ir.Graph) -> Iterator[ir.Value]:
    """Values of the graphs around that nodes of `graph`, or its results, read."""
    own = {*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)}
    inner = (node.attributes[name].as_graph() for node in graph for name in _BODIES if name in node.attributes)
    read = [v for node in graph for v in node.inputs if v is not None]
    yield from (v for v in (*read, *(v for body in inner for v in _from_outside(body)), *graph.outputs) if v not in own)


def _with_own_results(body: Draft) -> Draft:
    """A result that is an input or a constant is copied: a network of the file gives what its operators made.

    All of it is cut out: a reshape would lend the constant's own memory, which LiteRT's kernels then free.

    Raises:
        Refused: it is a single number without axes, of which nothing can be cut out.
    """
    made = {id(t) for operator in body.operators for t in operator.outputs}
    for name, tensor in body.outputs.items():
        if id(tensor) not in made:
            if not tensor.shape:
                raise Refused("has a branch that gives a single number unchanged")
            begin, size = (
                Tensor("", (len(tensor.shape),), "int32", data=np.array(numbers, np.int32))
                for numbers in ([0] * len(tensor.shape), tensor.shape)
            )
            copied = Tensor(name, tensor.shape, tensor.dtype, tensor.quantization)
            body.operators.append(Operator("SLICE", [tensor, begin, size], [copied]))
            body.outputs[name] = copied
    return body


LOWERINGS: Mapping[str, Lower] = {"If": _if}
