"""The ONNX graph as the writer reads it: static sizes, one sample, activations as part of what they end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.onnx_level.fold_constants import fold
from passes.onnx_level.fuse_gelu import FuseGelu
from passes.onnx_level.matching import matchable, only_user
from passes.program import Program
from passes.structure import infer_shapes
from targets.errors import InvalidInput
from targets.stack import Stack

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Step", "bounds", "readable", "steps"]

_DEPENDS_ON_SIZES = frozenset({"Shape", "Size", "ConstantOfShape", "Range"})

_ENDED_BY_ACTIVATION = frozenset({"Conv", "Gemm", "Add", "Sub", "Mul", "Div", "AveragePool"})
"""Operators whose kernels clamp their results."""


@dataclass(frozen=True, eq=False)
class Step:
    """An operator of the graph, with the activation function that its kernel computes as well.

    Args:
        output: Its first result, after the activation function.
        activation: As the schema names it; empty where there is none.
    """

    node: ir.Node
    output: ir.Value
    activation: str = ""

    @property
    def inputs(self) -> list[ir.Value | None]:
        return list(self.node.inputs)

    def input(self, position: int) -> ir.Value | None:
        """None where it is left out."""
        return self.node.inputs[position] if position < len(self.node.inputs) else None


def readable(program: Program, stack: Stack) -> ir.Model:
    """A copy of the graph for one sample, with static shapes and every constant an initializer.

    Raises:
        InvalidInput: a size beside the batch varies, and nobody stated it.
    """
    for spec in program.signature.inputs:
        if 0 in spec.shape:
            raise InvalidInput(f"an input without elements has no form in a .tflite: {spec}", hint="remove the input")
        if any(axis > 0 for axis in program.assumed.get(spec.name, ())):
            raise InvalidInput(
                f"{stack.runtime} runs files of fixed sizes, and this model's input may vary: {spec}",
                hint=f"state its size, for instance --input {spec.name}={_example(program, spec.name)}",
            )
    if any(node.op_type == "Erf" for node in program.graph):
        program = program.with_model(FuseGelu().apply(program, None).model)  # type: ignore[arg-type]
    model = infer_shapes(program.model, {name: _one_sample(program, name) for name in program.example})
    if any(node.op_type in _DEPENDS_ON_SIZES for node in model.graph):
        fold(model, max_elements=1 << 20)
        model = infer_shapes(model)
    return matchable(program.with_model(model))


def _one_sample(program: Program, name: str) -> tuple[int, ...]:
    """The example's sizes, with a batch that varies at 1."""
    shape = program.example[name].shape
    spec = next(s for s in program.signature.inputs if s.name == name)
    return (1, *shape[1:]) if spec.shape and isinstance(spec.shape[0], str) else shape


def _example(program: Program, name: str) -> str:
    return "x".join(map(str, _one_sample(program, name)))


def steps(graph: ir.Graph) -> Iterator[Step]:
    """Every operator in order; those that are part of another one are left out."""
    inside: set[ir.Node] = set()
    for node in graph:
        if node in inside:
            continue
        last, activation = _ended(node)
        if last is not node:
            inside.add(last)
        yield Step(node, last.outputs[0], activation)


def _ended(node: ir.Node) -> tuple[ir.Node, str]:
    """The operator with which the kernel of `node` ends, and its name there."""
    clamps = node.op_type in _ENDED_BY_ACTIVATION or (node.op_type == "MatMul" and _constant(node.inputs[1]))
    value = node.outputs[0]
    user = only_user(value) if clamps and _is_float(value) else None
    if user is None or user.domain or user.graph is not node.graph:
        return node, ""
    limits = bounds(user)
    name = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}.get(limits or (0.0, 0.0), "")
    return (user, name) if name else (node, "")


def bounds(node: ir.Node) -> tuple[float, float] | None:
    """The limits within which `node`, a Relu or a Clip, keeps its input; None for others, or where they vary."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    found = []
    for position, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = node.inputs[position] if len(node.inputs) > position else None
        if value is None:
            found.append(float(node.attributes.get_float(name, default)))
        elif value.const_value is None or value.const_value.size != 1:
            return None
        else:
            found.append(float(value.const_value.numpy().reshape(())))
    return found[0], found[1]


def _constant(value: ir.Value | None) -> bool:
    """Whether a value is known, as numbers or as stored integers."""
    if value is None:
        return False
    if value.const_value is not None:
        return True
    node = value.producer()
    return node is not None and node.op_type == "DequantizeLinear" and _constant(node.inputs[0])


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.name in ("FLOAT", "FLOAT16")
