"""Read a model file, once it is known to hold data and not code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from passes.dataset import Array, Sample
from passes.origins import keep_origins
from passes.program import Program, onnx_program
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput, ToolkitError
from toolkit.finite_weights import check_graph_weights
from toolkit.fixed_inputs import Fixed, fix_graph
from toolkit.input_shapes import known_sizes, varying, zeros
from toolkit.untrusted import check_external_data, check_pt2, check_torchscript, read_bytes

__all__ = ["read_onnx", "read_pickle", "read_pt2", "read_torchscript"]

LARGEST_TENSOR = 2**32
"""Elements. The largest board that is known here has 64 GB."""

LARGEST_PROTO = 2**31
"""Bytes. protobuf writes no message that is longer."""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a library raises on a damaged or exotic file is the file's fault."""
    try:
        yield
    except (ToolkitError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # zip, pickle, protobuf, torch and onnx-ir raise anything here
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InvalidInput(
            f"{path.name} cannot be read: {type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}",
            hint="the file is damaged or of an unknown kind: save, export or download it again",
        ) from error


def read_pt2(path: Path, trust: bool) -> Any:
    """The exported program in a `.pt2`."""
    import torch

    with _reading(path):
        if not trust:
            check_pt2(path)
        return torch.export.load(path)


def read_torchscript(path: Path, trust: bool) -> Any:
    """The ScriptModule in a TorchScript archive."""
    import warnings

    import torch

    with _reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if not trust:
            check_torchscript(path)
        return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]


def read_pickle(path: Path, trust: bool) -> Any:
    """The module in a pickle, which only trust makes possible."""
    import pickle

    import torch

    with _reading(path):
        try:
            loaded = torch.load(path, weights_only=not trust, map_location="cpu")
        except pickle.UnpicklingError as error:
            raise InvalidInput(
                f"{path.name} is a pickle that could run code when it is loaded",
                hint="save the model with torch.export.save (.pt2), or name it as module:factory; "
                "only if you trust where the file comes from, repeat with --trust",
            ) from error
    if isinstance(loaded, Mapping):
        raise InvalidInput(
            f"{path.name} holds weights without the network they belong to",
            hint="name a function that builds the network and loads them: module:factory",
        )
    return loaded


def read_onnx(path: Path, specs: Sequence[TensorSpec], fixed: Fixed, sample: Sample | Array | None = None) -> Program:
    """The graph in an `.onnx`, with the external data that lies in its folder.

    Sizes that vary are those of `specs`, else, beside the batch, those of `sample`.
    """
    with _reading(path):
        return _read_onnx(path, specs, fixed, sample)


def _read_onnx(path: Path, specs: Sequence[TensorSpec], fixed: Fixed, sample: Sample | Array | None) -> Program:
    import onnx

    from passes.structure import onnx_errors

    with onnx_errors(f"{path.name} is not a readable ONNX model"):
        model = onnx.load_model_from_string(read_bytes(path))
        if not model.graph.node or not model.opset_import:
            raise InvalidInput(f"{path.name} holds no ONNX graph", hint="check the file: it may be empty or cut off")
        check_external_data(model, path.parent)
        onnx.load_external_data_for_model(model, str(path.parent))
        _check_opsets(model, path.name)
        onnx.checker.check_model(model)
    _drop_initializer_inputs(model)
    fix_graph(model, fixed)
    check_graph_weights(model, path.name)
    signature = _onnx_signature(model.graph, path.name)
    _check_stated(signature, specs)
    sized = known_sizes(signature.inputs, specs, sample)
    example = {spec.name: zeros(spec) for spec in sized}
    program = onnx_program(path.stem, _graph(model), signature, example, varying(sized))
    _check_sizes(program)
    return program


def _graph(model: Any) -> Any:
    """The graph for passes; where it sprawls its shapes are inferred here, while that takes no copy of it."""
    import onnx_ir
    from onnx import shape_inference

    from passes.structure import SPRAWLING_NODES

    if len(model.graph.node) > SPRAWLING_NODES and model.ByteSize() < LARGEST_PROTO:
        model = shape_inference.infer_shapes(model, data_prop=True)
    read = onnx_ir.from_proto(model)
    keep_origins(read)
    return read


def _check_opsets(model: Any, file: str) -> None:
    """A graph of a later onnx cannot be understood by this one."""
    import onnx

    known = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if not entry.domain and not 1 <= entry.version <= known:
            raise InvalidInput(
                f"{file} is written in opset {entry.version}; the onnx that is installed knows 1 to {known}",
                hint=f"export the model again with an opset of at most {known}, or install a newer onnx",
            )


def _check_sizes(program: Program) -> None:
    """Refuse a graph in which a tensor would be larger than any board's memory: a damaged size, as a rule."""
    for value in (v for node in program.static_model.graph for v in node.outputs):
        dims = [d for d in value.shape.dims if isinstance(d, int)] if value.shape is not None else []
        if value.shape is not None and len(dims) == len(value.shape.dims):
            count = prod(dims)
            if count > LARGEST_TENSOR:
                raise InvalidInput(
                    f"tensor {value.name!r} of {program.name} would have {count:,} elements",
                    hint="the file is damaged, or --input states sizes that no device can hold",
                )


def _check_stated(signature: Signature, specs: Sequence[TensorSpec]) -> None:
    """--input may give a value to a dimension that varies; it may not contradict the file."""
    known = {spec.name: spec for spec in signature.inputs}
    for item in specs:
        targets = [known[item.name]] if item.name in known else list(known.values()) if not item.name else []
        if not any(_agrees(item, spec) for spec in targets):
            said = ", ".join(map(str, signature.inputs))
            raise InvalidInput(f"--input {item} fits no input of the model", hint=f"its inputs are {said}")


def _agrees(item: TensorSpec, spec: TensorSpec) -> bool:
    return (
        item.dtype == spec.dtype
        and len(item.shape) == len(spec.shape)
        and all(isinstance(b, str) or a == b for a, b in zip(item.shape, spec.shape, strict=True))
    )


def _drop_initializer_inputs(model: Any) -> None:
    """Old files list their weights among the inputs as well."""
    weights = {t.name for t in model.graph.initializer}
    kept = [v for v in model.graph.input if v.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _onnx_signature(graph: Any, file: str) -> Signature:
    if not graph.output:
        raise InvalidInput(f"{file} has no outputs", hint="mark what the model answers as outputs, and export it again")
    return Signature(tuple(_onnx_spec(v, file) for v in graph.input), tuple(_onnx_spec(v, file) for v in graph.output))


def _onnx_spec(value: Any, file: str) -> TensorSpec:
    from onnx import helper

    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        raise InvalidInput(
            f"{file}: {value.name!r} is not a tensor", hint="sequences and maps cannot be deployed; return tensors"
        )
    if not tensor.HasField("shape"):
        raise InvalidInput(
            f"{file}: {value.name!r} has no shape", hint="run onnx.shape_inference on the file, or export it again"
        )
    dims = tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or f"{value.name}_{i}"
        for i, d in enumerate(tensor.shape.dim)
    )
    return TensorSpec(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name, dims)
