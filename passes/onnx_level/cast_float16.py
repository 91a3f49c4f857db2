"""Store and compute in float16, except where its range or precision does not do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.half import holds_float16
from passes.onnx_level.matching import made_by
from passes.onnx_level.quantizing import quantizer_model
from passes.onnx_level.ranges import activations, observe
from passes.onnx_level.rewriting import rewriting_errors
from passes.onnxruntime import Session, import_onnxruntime
from passes.program import Program
from passes.proof import Proof

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["CastFloat16"]

_LARGEST = 65504.0
_SENSITIVE = ("Exp", "InstanceNormalization", "LayerNormalization", "Log", "Pow", "ReduceMean", "ReduceSum", "Softmax")
"""Where float16 loses most: sums of many terms, and functions that blow a rounding error up."""


@dataclass(frozen=True)
class CastFloat16(Pass):
    """Weights and activations in float16; inputs and outputs stay float32, so the signature does.

    Over its budget it is narrowed: first to what stays within half of float16's range on the data, then to leave
    operators that sum or exponentiate in float32.

    Args:
        protect: Operator types that stay in float32 beside onnxruntime's own list of those that must.
        exclude: Names of nodes that stay in float32.
    """

    protect: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    kind = Kind.APPROXIMATE
    needs = frozenset({"constants_folded"})
    gives = frozenset({"float16"})

    def requires(self, program: Program, ctx: Context) -> None:
        if holds_float16(program.model):
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
            proto = onnx.load_model_from_string(program.onnx_bytes)
            standard = {name for node in proto.graph.node if not node.domain for name in node.output}
            _drop_types(proto, standard | _weights(proto))  # a stale shape would make the inference fail
            proto = onnx.shape_inference.infer_shapes(proto)
            _drop_types(proto, _weights(proto))  # the converter would trust them after it has cast the weights
            cast = convert_float_to_float16(
                proto,
                keep_io_types=True,
                op_block_list=[*DEFAULT_OP_BLOCK_LIST, *self.protect],
                node_block_list=list(self.exclude),
                disable_shape_infer=True,
            )
            _drop_repeated_casts(cast)
            model = onnx_ir.from_proto(cast)
            model.graph.sort()  # the converter appends its casts at the end
        _skip_detours(model)
        return program.with_model(model)

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        Session(after.onnx_bytes)  # the proof runs a float32 graph that rounds: this one has to load as well

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> Pass | None:
        large = _overflowing(before, ctx)
        if not set(large) <= set(self.exclude):
            return replace(self, exclude=tuple(large))
        if not set(_SENSITIVE) <= set(self.protect):
            return replace(self, protect=(*self.protect, *(t for t in _SENSITIVE if t not in self.protect)))
        return None


def _skip_detours(model: ir.Model) -> None:
    """Between two nodes that stay in float32 the converter goes through float16 and back: go straight."""
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in list(model.graph):
        back = made_by(node.outputs[0], "Cast")
        there = made_by(node.inputs[0], "Cast") if back is not None else None
        source = there.inputs[0] if there is not None else None
        if source is None or source.dtype is None or node.outputs[0].dtype is not source.dtype:
            continue
        if source.dtype.name == "FLOAT" and not node.outputs[0].is_graph_output():
            onnx_ir.convenience.replace_all_uses_with(node.outputs[0], source)
    RemoveUnusedNodesPass()(model)


def _overflowing(program: Program, ctx: Context) -> list[str]:
    """Nodes that read or write a value beyond half of what float16 holds."""
    model = quantizer_model(program)
    data = ctx.proof_data(program)
    seen = program.kept(
        f"extremes {data.digest}", lambda: observe(model, data, activations(model), "minmax", 100, ctx.progress)
    )
    large = {name for name, (low, high) in seen.items() if max(-low, high) > _LARGEST / 2}
    return [node.name for node in model.graph.node if node.name and large & {*node.input, *node.output}]


def _drop_repeated_casts(proto: onnx.ModelProto) -> None:
    """Where a node reads one value twice, the converter writes the same cast twice."""
    seen: set[str] = set()
    kept = []
    for node in proto.graph.node:
        if node.op_type != "Cast" or node.output[0] not in seen:
            kept.append(node)
        seen.update(node.output)
    if len(kept) < len(proto.graph.node):
        del proto.graph.node[:]
        proto.graph.node.extend(kept)


def _weights(proto: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in proto.graph.initializer}


def _drop_types(proto: onnx.ModelProto, names: set[str]) -> None:
    kept = [info for info in proto.graph.value_info if info.name not in names]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
