"""Move a graph to another version of the operator set: up with onnx's converter, down by the table here.

Old runtimes want old opsets (TensorRT 8.2 on the Jetson Nano reads 13), torch exports 18 and newer, and onnx's own
converter has no way down for most operators. Going down, an attribute that the older operator lacks is dropped where
it holds its default, and axes that became an input turn back into an attribute; anything else is refused by name.
That the meaning stayed is not assumed: the pass is exact, so its answers are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.program import Program
from passes.structure import onnx_errors

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["ConvertOpset"]


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """The same graph in operator set `opset`."""

    opset: int
    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})
    gives = frozenset({"opset_converted"})
    prepares = True

    def apply(self, program: Program, ctx: Context) -> Program:
        if program.opset in (0, self.opset):  # 0: none of its operators is a standard one
            return program
        return program.with_model(
            _up(program, self.opset) if program.opset < self.opset else _down(program, self.opset)
        )

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        if after.opset not in (0, self.opset):
            raise PassFailed(
                f"the graph came back in opset {after.opset}, not {self.opset}",
                hint="export the model again in the opset that the stack wants",
            )


def _up(program: Program, opset: int) -> ir.Model:
    import onnx
    import onnx.version_converter
    import onnx_ir

    if program.opset < 9 and any(node.op_type == "Scan" for node in program.model.graph.all_nodes()):
        raise PassFailed(
            "Scan of opset 8 has a batch of its own, which no converter translates",
            hint="export the model again in opset 9 or newer",
        )
    proto = onnx.load_model_from_string(program.onnx_bytes)
    try:
        with onnx_errors("converting the opset"):
            return onnx_ir.from_proto(onnx.version_converter.convert_version(proto, opset))
    except RuntimeError as error:
        text = " ".join(str(error).split())[-200:]
        raise PassFailed(
            f"opset {program.opset} to {opset}: {text}", hint="export the model again in a newer opset"
        ) from error


def _down(program: Program, opset: int) -> ir.Model:
    import onnx

    model = program.clone()
    for node in [n for n in model.graph.all_nodes() if n.op_type == "HardSwish" and opset < 14]:
        _spell_out_hard_swish(node)
    for node in model.graph.all_nodes():
        if not node.domain:
            _lower(node, program.opset, opset)
    model.opset_imports[""] = opset
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], True)
    return model


def _lower(node: ir.Node, source: int, opset: int) -> None:
    import onnx.defs

    try:
        now, then = (onnx.defs.get_schema(node.op_type, version, "") for version in (source, opset))
    except onnx.defs.SchemaError as error:
        raise PassFailed(
            f"{node.op_type} ({node.name}) does not exist in opset {opset}",
            hint="choose a stack with a newer runtime, or another operator in the model",
        ) from error
    if now.since_version == then.since_version:
        return
    _check_types(node, then, opset)
    if rewrite := _REWRITES.get(node.op_type):
        rewrite(node)
    for name in [n for n in node.attributes if n not in then.attributes]:
        if not _is_default(node.attributes[name], now.attributes[name]):
            raise PassFailed(
                f"{node.op_type} ({node.name}) uses {name}, which opset {opset} lacks",
                hint="choose a stack with a newer runtime, or another operator in the model",
            )
        node.attributes.pop(name)
    if len([v for v in node.inputs if v is not None]) > then.max_input:
        raise PassFailed(
            f"{node.op_type} ({node.name}) has more inputs than opset {opset} knows",
            hint="choose a stack with a newer runtime, or another operator in the model",
        )


def _check_types(node: ir.Node, then: onnx.defs.OpSchema, opset: int) -> None:
    import onnx_ir

    for i, value in enumerate(node.inputs):
        if value is None or not isinstance(value.type, onnx_ir.TensorType) or i >= then.max_input:
            continue
        formal = then.inputs[min(i, len(then.inputs) - 1)]  # the last one may stand for many
        if f"tensor({value.type.dtype.name.lower()})" not in formal.types:
            raise PassFailed(
                f"{node.op_type} ({node.name}) of {value.type.dtype.name.lower()} does not exist in opset {opset}",
                hint="choose a stack with a newer runtime, or another element type in the model",
            )


def _is_default(attribute: ir.Attr, schema: onnx.defs.OpSchema.Attribute) -> bool:
    from onnx import helper

    value = attribute.value
    if schema.default_value.name:
        return bool(_plain(value) == _plain(helper.get_attribute_value(schema.default_value)))
    return all(v == 1 for v in value) if attribute.name == "dilations" else False


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _axes_to_attribute(node: ir.Node) -> None:
    """ReduceMean and its like took their axes as an attribute until opset 17."""
    import onnx_ir

    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None:
        return
    if axes.const_value is None:
        raise PassFailed(f"{node.op_type} ({node.name}) computes its axes", hint="give constant axes in the model")
    values = [int(v) for v in axes.const_value.numpy().reshape(-1)]
    node.resize_inputs(1)
    node.attributes["axes"] = onnx_ir.AttrInt64s("axes", values)


def _spell_out_hard_swish(node: ir.Node) -> None:
    """HardSwish came with opset 14; it is x * max(0, min(1, x / 6 + 1 / 2))."""
    import onnx_ir

    x, result, graph = node.inputs[0], node.outputs[0], node.graph
    assert x is not None
    assert isinstance(graph, onnx_ir.Graph)
    factors = [onnx_ir.AttrFloat32("alpha", 1 / 6), onnx_ir.AttrFloat32("beta", 0.5)]
    gate = onnx_ir.Node("", "HardSigmoid", [x], factors, name=f"{node.name}_gate")
    product = onnx_ir.Node("", "Mul", [x, gate.outputs[0]], name=node.name)
    for made in (gate, product):
        made.metadata_props.update(node.metadata_props)
        made.outputs[0].type, made.outputs[0].shape = result.type, result.shape
    gate.outputs[0].name = f"{result.name}_gate"
    onnx_ir.convenience.replace_nodes_and_values(graph, node, [node], [gate, product], [result], product.outputs)
    product.outputs[0].name = result.name


def _plain_reshape(node: ir.Node) -> None:
    """allowzero matters only where the new shape holds a zero."""
    shape = node.inputs[1]
    if shape is not None and shape.const_value is not None and 0 not in shape.const_value.numpy():
        node.attributes.pop("allowzero", None)


def _equal_parts(node: ir.Node) -> None:
    """Split of opset 13 makes equal parts when it is not told the sizes, which is what num_outputs says."""
    node.attributes.pop("num_outputs", None)


_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
               "ReduceLogSumExp", "ReduceSumSquare")  # fmt: skip
_REWRITES: Mapping[str, Callable[[Any], None]] = {
    **dict.fromkeys(_REDUCTIONS, _axes_to_attribute),
    "Reshape": _plain_reshape,
    "Split": _equal_parts,
}
