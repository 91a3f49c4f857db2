"""Is this a valid model, and what are its shapes? onnx's own checker and shape inference, errors turned into ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from passes.program import Level, Program
from passes.quiet import quiet_libraries
from passes.signature import TensorSpec
from targets.errors import InvalidInput

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["check_structure", "infer_shapes", "inferred", "onnx_errors"]


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


def infer_shapes(model: ir.Model, dims: Mapping[str, int] | None = None) -> ir.Model:
    """A copy of `model` with shapes inferred afresh; symbolic input dimensions take their value from `dims`.

    A symbolic first dimension is a batch and becomes 1 where `dims` is silent.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import ShapeInferencePass

    copy = model.clone()
    known = dict(dims or {})
    changed = False
    for value in copy.graph.inputs:
        if value.shape is None:
            continue
        sizes = [_size(d, i, known) for i, d in enumerate(value.shape.dims)]
        changed = changed or not value.shape.is_static()
        value.shape = ir.Shape(sizes)
    if changed:
        for node in copy.graph:
            for value in node.outputs:
                value.shape = None
    with quiet_libraries(), onnx_errors("shape inference"):
        return ShapeInferencePass()(copy).model


def _size(dim: int | ir.SymbolicDim, position: int, known: Mapping[str, int]) -> int | ir.SymbolicDim:
    if isinstance(dim, int):
        return dim
    name = str(dim.value)
    return known.get(name, 1 if position == 0 else dim)  # type: ignore[arg-type]


def inferred(program: Program) -> ir.Model:
    """The program's graph with static shapes, as cost models read it; varying sizes are those of the example."""
    dims: dict[str, int] = {}
    for value, spec in zip(program.graph.inputs, program.signature.inputs, strict=True):
        if value.shape is not None:
            sizes = program.example[spec.name].shape
            dims |= {str(d.value): n for d, n in zip(value.shape.dims, sizes, strict=True) if not isinstance(d, int)}
    return infer_shapes(program.model, dims)
