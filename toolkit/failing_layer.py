"""The smallest graph that shows what is wrong: one layer in float, the same as the bundle has it, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array, Sample
from passes.onnx_level.sites import Unit
from passes.onnx_level.switchboard import Switchboard
from passes.onnxruntime import Session
from passes.program import Program

if TYPE_CHECKING:
    import onnx

__all__ = ["save_layer"]


def save_layer(folder: Path, board: Switchboard, unit: Unit, sample: Sample) -> list[Path]:
    """Write `layer.onnx` and `inputs.npz`, and return their paths.

    The graph's input `quantized` chooses between the float layer and the bundle's. The arrays are what the layer reads
    on `sample` in the float model, by the names of the graph's inputs, and `expected`, its float result.
    """
    import onnx
    import onnx.utils
    from onnx import helper

    float_reads = _reads(board.float_program, unit)
    values = _values(board.float_program, [*float_reads, unit.tensor], sample)
    model = board.model
    rounded_inputs = {u.tensor for u in board.units if u.op_type == "input"} - {unit.tensor}
    reads = {f"{name}:seen" if name in rounded_inputs else name: values[name] for name in float_reads}
    result = f"{unit.tensor}:seen" if unit.op_type == "input" else unit.tensor
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    model.graph.value_info.extend(_described(name, array) for name, array in reads.items() if name not in known)
    if result not in known:
        model.graph.value_info.append(_described(result, values[unit.tensor]))
    switch = f"switch:{board.units.index(unit)}"
    extracted = onnx.utils.Extractor(model).extract_model([*reads, switch], [result])
    plain = {**{name: f"input_{i}" for i, name in enumerate(reads)}, switch: "quantized", result: "output"}
    for node in extracted.graph.node:
        node.input[:] = [plain.get(name, name) for name in node.input]
        node.output[:] = [plain.get(name, name) for name in node.output]
    del extracted.graph.input[:], extracted.graph.output[:], extracted.graph.value_info[:]
    extracted.graph.input.extend(_described(plain[name], array) for name, array in reads.items())
    extracted.graph.input.append(helper.make_tensor_value_info("quantized", onnx.TensorProto.BOOL, []))
    extracted.graph.output.append(_described("output", values[unit.tensor]))
    onnx.checker.check_model(extracted)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "layer.onnx", folder / "inputs.npz"]
    onnx.save_model(extracted, files[0])
    arrays = {plain[name]: array for name, array in reads.items()}
    np.savez(files[1], allow_pickle=False, quantized=np.array(True), expected=values[unit.tensor], **arrays)
    return files


def _reads(program: Program, unit: Unit) -> list[str]:
    """The tensors of the float graph that the unit is computed from, constants apart."""
    node = next((n for n in program.graph if n.name == unit.node), None)
    if node is None:
        return [unit.tensor]
    found = {str(v.name): None for v in node.inputs if v is not None and not v.is_initializer()}
    return list(found)


def _values(program: Program, tensors: Sequence[str], sample: Sample) -> Mapping[str, Array]:
    """What these tensors are on one sample."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_model_from_string(program.onnx_bytes)
    known = {value.name for value in model.graph.output}
    wanted = [name for name in dict.fromkeys(tensors) if name not in sample]
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, types.get(name) or TensorProto.FLOAT, None)
        for name in wanted
        if name not in known
    )
    return {**sample, **Session(model.SerializeToString())(sample, wanted)}


def _described(name: str, array: Array) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
