"""Store and compute in float16, except where its range or precision does not do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.rewriting import rewriting_errors
from passes.onnxruntime import import_onnxruntime
from passes.program import Program

if TYPE_CHECKING:
    import onnx

__all__ = ["CastFloat16"]


@dataclass(frozen=True)
class CastFloat16(Pass):
    """Weights and activations in float16; inputs and outputs stay float32, so the signature does.

    `protect` names operator types that stay in float32 beside onnxruntime's own list of those that must.
    """

    protect: tuple[str, ...] = ()
    kind = Kind.APPROXIMATE
    needs = frozenset({"constants_folded"})
    gives = frozenset({"float16"})

    def requires(self, program: Program, ctx: Context) -> None:
        if _holds_float16(program):
            raise PassFailed("the graph holds float16 already", hint="nothing to do")
        if not any(t.dtype == "float32" for t in (*program.signature.inputs, *program.signature.outputs)):
            raise PassFailed("the model has no float32 input or output to cast behind", hint="nothing to do")

    def apply(self, program: Program, ctx: Context) -> Program:
        import onnx
        import onnx.shape_inference
        import onnx_ir

        import_onnxruntime()
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        with rewriting_errors():
            proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(program.onnx_bytes))
            _drop_types_of_weights(proto)  # the converter would trust them after it has cast the weights
            cast = convert_float_to_float16(
                proto,
                keep_io_types=True,
                op_block_list=[*DEFAULT_OP_BLOCK_LIST, *self.protect],
                disable_shape_infer=True,
            )
            model = onnx_ir.from_proto(cast)
            model.graph.sort()  # the converter appends its casts at the end
        return program.with_model(model)


def _holds_float16(program: Program) -> bool:
    values = [*program.graph.initializers.values(), *(v for node in program.graph for v in node.outputs)]
    return any(v.dtype is not None and v.dtype.name == "FLOAT16" for v in values)


def _drop_types_of_weights(proto: onnx.ModelProto) -> None:
    weights = {tensor.name for tensor in proto.graph.initializer}
    kept = [info for info in proto.graph.value_info if info.name not in weights]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
