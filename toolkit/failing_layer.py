"""The smallest graph that shows what is wrong: one layer in float, the same as the bundle has it, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array, Sample
from passes.onnx_level.sites import Unit, key_of
from passes.onnx_level.switchboard import Switchboard
from passes.onnxruntime import Session
from passes.program import Program
from targets.errors import InvalidInput

if TYPE_CHECKING:
    import onnx

__all__ = ["save_layer"]


def save_layer(folder: Path, board: Switchboard, unit: Unit, sample: Sample) -> list[Path]:
    """Write `layer.onnx` and `inputs.npz`, and return their paths.

    The graph's input `quantized` chooses between the float layer and the bundle's. The arrays are what the layer reads
    on `sample` in the float model, by the names of the graph's inputs, and `expected`, its float result.
    """
    import onnx
    from onnx import helper

    reads = _reads(board.float_program, unit)
    values = _values(board.float_program, [*reads, unit.tensor], sample)
    model = board.model
    result = f"{unit.tensor}:seen" if unit.op_type == "input" else unit.tensor
    choice = next(node for node in model.graph.node if result in node.output)
    plain = {name: f"input_{i}" for i, name in enumerate(reads)}
    rounded = {u.tensor for u in board.units if u.op_type == "input"}
    _rename(choice, {**plain, **{f"{name}:seen": plain[name] for name in reads if name in rounded}})
    choice.input[:], choice.output[:] = ["quantized"], ["output"]
    used = {name for branch in choice.attribute for node in branch.g.node for name in node.input}
    graph = helper.make_graph(
        [choice],
        "layer",
        [*(_described(plain[name], values[name]) for name in reads),
         helper.make_tensor_value_info("quantized", onnx.TensorProto.BOOL, [])],
        [_described("output", values[unit.tensor])],
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )  # fmt: skip
    layer = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(layer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write to {folder}: {error.strerror}", hint="name a folder with --save") from error
    files = [folder / "layer.onnx", folder / "inputs.npz"]
    onnx.save_model(layer, files[0])
    arrays = {plain[name]: values[name] for name in reads}
    np.savez(files[1], allow_pickle=False, quantized=np.array(True), expected=values[unit.tensor], **arrays)
    return files


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let the bodies of `node` read other tensors."""
    for attribute in node.attribute:
        for inner in attribute.g.node:
            inner.input[:] = [names.get(name, name) for name in inner.input]


def _reads(program: Program, unit: Unit) -> list[str]:
    """The tensors of the float graph that the unit is computed from, constants apart."""
    node = next((n for n in program.graph if key_of(n) == unit.node), None)
    if node is None:
        return [unit.tensor]
    if any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values()):
        raise InvalidInput(f"{unit.name} holds graphs of its own and cannot stand alone", hint="leave --save out")
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
    return {**sample, **(Session(model.SerializeToString())(sample, wanted) if wanted else {})}


def _described(name: str, array: Array) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
