"""Is this a valid model, and what are its shapes? onnx's own checker and shape inference, errors turned into ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

from passes.program import Level, Program
from passes.quiet import quiet_libraries
from passes.signature import TensorSpec
from targets.errors import InvalidInput

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SPRAWLING_NODES", "check_structure", "infer_shapes", "inferred", "onnx_errors"]

SPRAWLING_NODES = 20_000
"""Graphs of more operators are unrolled loops, as a rule. Each copy, inference or rewrite of one takes many seconds."""


@contextmanager
def onnx_errors(doing: str) -> Iterator[None]:
    """Turn the exceptions of onnx into InvalidInput while `doing` something."""
    import google.protobuf.message
    import onnx.checker
    import onnx.shape_inference
    import onnx_ir.serde

    try:
        yield
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        google.protobuf.message.DecodeError,
        google.protobuf.message.EncodeError,
        onnx_ir.serde.SerdeError,
    ) as error:
        text = " ".join(str(error.__cause__ or error).split())[:300]
        raise InvalidInput(f"{doing}: {text}", hint="export the model again, or check the file's origin") from error


def check_structure(program: Program) -> None:
    """Refuse an ONNX program that onnx's checker refuses, or whose inputs and outputs left its signature.

    Raises:
        InvalidInput: with the checker's own words.
    """
    if program.level is not Level.ONNX:
        return
    import onnx

    with onnx_errors("the graph is not valid ONNX"):
        onnx.checker.check_model(program.onnx_bytes)
    for have, want in (
        (program.graph.inputs, program.signature.inputs),
        (program.graph.outputs, program.signature.outputs),
    ):
        if [v.name for v in have] != [s.name for s in want]:
            raise InvalidInput(
                f"the graph's tensors {[v.name for v in have]} are not those of the signature",
                hint="this is a bug in a pass: please report it",
            )
        for value, spec in zip(have, want, strict=True):
            if not _matches(value, spec):
                raise InvalidInput(
                    f"the graph has {spec.name} as {value.dtype}{value.shape}, the signature says {spec}",
                    hint="this is a bug in a pass: please report it",
                )


def _matches(value: ir.Value, spec: TensorSpec) -> bool:
    """Same type and rank; a size that is fixed in one is not another in the other, nor fixed where it may vary."""
    if value.dtype is not None and value.dtype.numpy().name != spec.dtype:
        return False
    if value.shape is None:
        return True
    dims = value.shape.dims
    return len(dims) == len(spec.shape) and all(
        not isinstance(have, int) or have == want for have, want in zip(dims, spec.shape, strict=True)
    )


def infer_shapes(model: ir.Model, sizes: Mapping[str, Sequence[int]] | None = None) -> ir.Model:
    """A copy of `model` with shapes inferred afresh; `sizes` gives the shape of inputs, by name.

    Where it is silent, a first dimension that varies is a batch and becomes 1.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import ShapeInferencePass

    copy = model.clone()
    changed = False
    for value in copy.graph.inputs:
        if value.shape is None:
            continue
        given = (sizes or {}).get(str(value.name))
        dims = [_size(d, i, given) for i, d in enumerate(value.shape.dims)]
        changed = changed or not value.shape.is_static()
        value.shape = ir.Shape(dims)
    if changed:
        for node in copy.graph.all_nodes():
            for value in node.outputs:
                value.shape = None
    with quiet_libraries(), onnx_errors("shape inference"):
        # not strict: a branch that cannot take these sizes must not hide the shapes of the one that can
        return ShapeInferencePass(strict_mode=False)(copy).model


def _size(dim: int | ir.SymbolicDim, position: int, given: Sequence[int] | None) -> int | ir.SymbolicDim:
    if isinstance(dim, int):
        return dim
    if given is not None:
        return given[position]
    return 1 if position == 0 else dim


def inferred(program: Program) -> ir.Model:
    """The program's graph with static shapes, as cost models read it; varying sizes are those of the example."""
    if program.graph.num_nodes() > SPRAWLING_NODES and _says_every_shape(program.graph):
        model: ir.Model = program.model
        return model
    return infer_shapes(program.model, {name: array.shape for name, array in program.example.items()})


def _says_every_shape(graph: ir.Graph) -> bool:
    values = chain(graph.inputs, (v for node in graph for v in node.outputs))
    return all(v.shape is not None and v.shape.is_static() and v.dtype is not None for v in values)
