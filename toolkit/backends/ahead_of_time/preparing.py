"""What TVM reads: the ONNX graph with static shapes, constants folded by onnxruntime, no operator that it lacks."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passes.onnxruntime import import_onnxruntime, mapped_errors
from passes.program import Program
from targets.errors import InvalidInput
from toolkit.backends.ahead_of_time import adapter
from toolkit.backends.ahead_of_time.trace import Tensor

__all__ = ["is_quantized", "outputs_of", "prepared", "refuse", "refuse_varying"]

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_SHOWN = 3


def is_quantized(program: Program) -> bool:
    """Whether integers stand for numbers somewhere in the graph."""
    return any(node.op_type in _QUANTIZED for node in program.graph)


def prepared(model: bytes) -> Any:
    """The ModelProto that `adapter.lowered` takes, from one of static shapes.

    Raises:
        InvalidInput: TVM has no converter for a node.
    """
    simplified = _simplified(model)
    _refuse_unknown(simplified)
    _name_plainly(simplified)
    return simplified


def _name_plainly(model: Any) -> None:
    """Inputs get names that are names in C as well: TVM writes them there as they are."""
    named = {value.name: f"input_{i}" for i, value in enumerate(model.graph.input)}
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)} - named.keys()
    if taken & set(named.values()):
        named = {name: f"{new}_of_graph" for name, new in named.items()}
    _rename(model.graph, named)


def _rename(graph: Any, named: Mapping[str, str]) -> None:
    """In the graph and in the bodies of its operators, which read what is around them."""
    for value in (*graph.input, *graph.output):
        value.name = named.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = named.get(name, name)
        for attribute in node.attribute:
            for body in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
                _rename(body, named)


def _refuse_unknown(model: Any) -> None:
    if missing := adapter.unsupported(model):
        nodes = ", ".join(f"{operator} ({name or 'unnamed'})" for operator, name in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise InvalidInput(
            f"TVM has no converter for {nodes}{more}",
            hint="replace it in the model, or compile for a stack with another runtime (onnxruntime takes most)",
        )


def outputs_of(program: Program) -> tuple[Tensor, ...]:
    """The outputs of a program of static shapes, as the signature has them."""
    return tuple(
        Tensor(spec.name, spec.dtype, tuple(d for d in spec.shape if isinstance(d, int)))
        for spec in program.signature.outputs
    )


def refuse(program: Program) -> None:
    """What can be refused before anything is lowered: a program is planned for one size of everything.

    Raises:
        InvalidInput: a size varies, or TVM has no converter for a node.
    """
    refuse_varying(program)
    _refuse_unknown(_simplified(program.onnx_bytes))


def refuse_varying(program: Program) -> None:
    """Raises InvalidInput where a size varies."""
    for spec in (*program.signature.inputs, *program.signature.outputs):
        if any(isinstance(dim, str) for dim in spec.shape):
            raise InvalidInput(
                f"the ahead-of-time compiler plans memory for one size, and {spec} varies",
                hint="state the size of each input, for instance --input 1x3x224x224",
            )


def _simplified(model: bytes) -> Any:
    """The graph after onnxruntime's basic optimisations: constants folded, identities gone, standard operators only."""
    import onnx

    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "basic.onnx"
        options.optimized_model_filepath = str(path)
        with mapped_errors("simplifying the graph"):
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return onnx.load(path)
