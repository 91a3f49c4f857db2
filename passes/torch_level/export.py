"""From a torch module to an ONNX graph: the one pass that changes level."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.origins import keep_origins
from passes.program import Level, Program
from passes.quiet import quiet_libraries, silent_output
from passes.signature import Signature, TensorSpec
from passes.torch_level.capture import export_errors, is_script, to_tensor
from passes.torch_level.operator_library import operators_read_once

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Export"]

LOWEST_OPSET = 18
"""The dynamo exporter has implementations from here on, and returns 18 without a word when asked for less."""


@dataclass(frozen=True)
class Export(Pass):
    """Translate the captured graph to ONNX at `opset`, keeping for each node its module and its source line.

    TorchScript has no captured graph: it goes through torch's older exporter, which keeps no source lines.
    """

    opset: int = LOWEST_OPSET
    kind = Kind.EXACT
    level = Level.TORCH
    becomes = Level.ONNX
    gives = frozenset({"exported"})
    essential = True

    def requires(self, program: Program, ctx: Context) -> None:
        if not LOWEST_OPSET <= self.opset <= 23:
            raise PassFailed(
                f"cannot export to opset {self.opset}",
                hint="choose an opset of at most 23; below 18 the graph is converted after export",
            )

    def apply(self, program: Program, ctx: Context) -> Program:
        with quiet_libraries(), silent_output(), export_errors(program.name):
            model = self._from_script(program) if is_script(program.model) else self._from_graph(program)
        came_back = model.opset_imports.get("", 0)
        if came_back != self.opset:
            raise PassFailed(
                f"asked the exporter for opset {self.opset}, it returned {came_back}", hint="choose another opset"
            )
        _rename(model, program)
        keep_origins(model)
        model.graph.name = program.name
        model.producer_name, model.producer_version = "edge-toolkit", ""
        return program.with_model(model, level=Level.ONNX)

    def _from_graph(self, program: Program) -> ir.Model:
        import torch

        from passes.fake_quant import translations

        with operators_read_once():
            result: Any = torch.onnx.export(
                program.exported, (), dynamo=True, opset_version=self.opset, optimize=False, verbose=False,
                custom_translation_table=translations(),
            )  # fmt: skip
        model: ir.Model = result.model
        return model

    def _from_script(self, program: Program) -> ir.Model:
        import onnx
        import onnx_ir
        import torch

        args = tuple(to_tensor(program.example[spec.name]) for spec in program.signature.inputs)
        file = io.BytesIO()
        torch.onnx.export(
            program.model,
            args,
            file,  # type: ignore[arg-type]  # the older exporter writes into open files as well
            dynamo=False,
            opset_version=self.opset,
            input_names=[spec.name for spec in program.signature.inputs],
            output_names=[spec.name for spec in program.signature.outputs],
            dynamic_axes=_dynamic_axes(program.signature),
        )
        return onnx_ir.from_proto(onnx.load_model_from_string(file.getvalue()))


def _dynamic_axes(signature: Signature) -> dict[str, dict[int, str]]:
    specs = (*signature.inputs, *signature.outputs)
    axes = {spec.name: {i: d for i, d in enumerate(spec.shape) if isinstance(d, str)} for spec in specs}
    return {name: found for name, found in axes.items() if found}


def _rename(model: ir.Model, program: Program) -> None:
    """Give the graph's inputs and outputs the names and symbols of the signature."""
    _separate_outputs(model)
    inputs = list(zip(model.graph.inputs, program.signature.inputs, strict=True))
    outputs = list(zip(model.graph.outputs, program.signature.outputs, strict=True))
    wanted = {spec.name for _, spec in (*inputs, *outputs)}
    for value in _values(model):
        if value.name in wanted:
            value.name = f"{value.name}_inner"
    for value, spec in (*inputs, *outputs):
        value.name = spec.name
    _rename_symbols(model, inputs)


def _separate_outputs(model: ir.Model) -> None:
    """An output that is an input too, or is given twice, becomes a copy of its own."""
    import onnx_ir

    seen = {id(v) for v in (*model.graph.inputs, *model.graph.initializers.values())}
    for i, value in enumerate(model.graph.outputs):
        if id(value) in seen:
            copy = onnx_ir.Node("", "Identity", [value], name=f"copy_{i}")
            copy.outputs[0].name, copy.outputs[0].type = f"copy_{i}_out", value.type
            copy.outputs[0].shape = value.shape
            model.graph.append(copy)
            model.graph.outputs[i] = copy.outputs[0]
        seen.add(id(value))


def _values(model: ir.Model) -> list[ir.Value]:
    made = [v for node in model.graph for v in node.outputs]
    return [*made, *model.graph.initializers.values(), *model.graph.inputs]


def _rename_symbols(model: ir.Model, inputs: Sequence[tuple[ir.Value, TensorSpec]]) -> None:
    """The exporter calls varying dimensions s27; the signature has the user's names."""
    import onnx_ir

    names = {
        str(have.value): want
        for value, spec in inputs
        for have, want in zip(value.shape.dims if value.shape else (), spec.shape, strict=True)
        if isinstance(want, str) and not isinstance(have, int)
    }
    for value in _values(model):
        if value.shape is not None and not value.shape.is_static():
            dims = [d if isinstance(d, int) else names.get(str(d.value), d) for d in value.shape.dims]
            value.shape = onnx_ir.Shape(dims)
