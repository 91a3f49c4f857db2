"""Load a model from whatever the user names: factory, file, the zoo, or a module in memory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.program import Level, Program, onnx_program
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput, UnknownName
from toolkit.data import load_factory
from toolkit.untrusted import check_external_data, check_pt2, file_kind, read_bytes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EXAMPLE", "Source", "load_source", "parse_input"]

EXAMPLE = "digits"
"""What is compiled when the user names nothing."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A loaded model. `spec` is how the user named it; the data sets are those that come with a zoo model."""

    spec: str
    program: Program
    data: Dataset | None = None
    validation: Dataset | None = None


def load_source(
    model: Any = None,
    *,
    inputs: Sequence[str] = (),
    sample: Sample | Array | None = None,
    trust: bool = False,
) -> Source:
    """Load a model.

    Args:
        model: None for the built-in example; a zoo name; `module:factory`; a path to .onnx, .pt2, .pt (TorchScript);
            or an nn.Module or ExportedProgram in memory.
        inputs: Shapes where the source does not say them, as `1x3x224x224`, `name=1x3x224x224` or
            `name=1x16:int64`; a letter in place of a number is a dimension that varies.
        sample: One sample, where the caller has data; gives the shapes when `inputs` is silent.
        trust: Load files that could run code.

    Raises:
        InvalidInput: the file is damaged, could run code, or the shapes are not known.
        UnknownName: no file, module or zoo model has this name.
    """
    specs = [parse_input(text) for text in inputs]
    if model is None or isinstance(model, (str, Path)):
        return _load_named(str(model or EXAMPLE), specs, sample, trust)
    return _from_object(model, type(model).__name__.lower(), "", specs, sample)


def _load_named(spec: str, specs: Sequence[TensorSpec], sample: Sample | Array | None, trust: bool) -> Source:
    from toolkit import models

    path = Path(spec)
    if spec in models.names() and not path.exists():
        entry = models.entry(spec)
        source = _from_object((entry.build(), entry.example()), spec, spec, specs, sample)
        return Source(spec=spec, program=source.program, data=entry.calibration(), validation=entry.validation())
    if path.is_file():
        return _from_file(path, specs, sample, trust)
    if ":" in spec and path.suffix != ".onnx":
        return _from_object(load_factory(spec), _factory_name(spec), spec, specs, sample)
    if path.is_dir():
        raise InvalidInput(
            f"{spec} is a folder, not a model", hint="name a file; a finished bundle goes to `toolkit verify`"
        )
    if path.suffix or "/" in spec:
        raise InvalidInput(f"there is no file {spec}", hint="check the path")
    raise UnknownName("model", spec, models.names())


# ---- files


def _from_file(path: Path, specs: Sequence[TensorSpec], sample: Sample | Array | None, trust: bool) -> Source:
    kind = file_kind(path)
    if kind == "onnx":
        return Source(spec=str(path), program=_read_onnx(path, specs))
    if kind == "pt2":
        return _from_object(_read_pt2(path, trust), path.stem, str(path), specs, sample)
    if kind == "torchscript":
        return _from_object(_read_torchscript(path), path.stem, str(path), specs, sample)
    return _from_object(_read_pickle(path, trust), path.stem, str(path), specs, sample)


def _read_pt2(path: Path, trust: bool) -> Any:
    import torch

    if not trust:
        check_pt2(path)
    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises anything on a damaged archive
        raise InvalidInput(
            f"{path.name} cannot be loaded: {_first_line(error)}", hint="save it again with torch.export.save"
        ) from error


def _read_torchscript(path: Path) -> Any:
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise InvalidInput(
            f"{path.name} cannot be loaded: {_first_line(error)}", hint="save it again with torch.jit.save"
        ) from error


def _read_pickle(path: Path, trust: bool) -> Any:
    import pickle

    import torch

    try:
        loaded = torch.load(path, weights_only=not trust, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise InvalidInput(
            f"{path.name} is a pickle that could run code when it is loaded",
            hint="save the model with torch.export.save (.pt2), or name it as module:factory; "
            "only if you trust where the file comes from, repeat with --trust",
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, AttributeError, ImportError) as error:
        raise InvalidInput(f"{path.name} cannot be loaded: {_first_line(error)}", hint="save it again") from error
    if isinstance(loaded, Mapping):
        raise InvalidInput(
            f"{path.name} holds weights without the network they belong to",
            hint="name a function that builds the network and loads them: module:factory",
        )
    return loaded


def _read_onnx(path: Path, specs: Sequence[TensorSpec]) -> Program:
    import onnx
    import onnx_ir

    from passes.structure import onnx_errors

    with onnx_errors(f"{path.name} is not a readable ONNX model"):
        model = onnx.load_model_from_string(read_bytes(path))
        if not model.graph.node or not model.opset_import:
            raise InvalidInput(f"{path.name} holds no ONNX graph", hint="check the file: it may be empty or cut off")
        check_external_data(model, path.parent)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    _drop_initializer_inputs(model)
    signature = _onnx_signature(model.graph, path.name)
    example = {spec.name: _zeros(_stated(spec, specs)) for spec in signature.inputs}
    return onnx_program(path.stem, onnx_ir.from_proto(model), signature, example)


def _drop_initializer_inputs(model: Any) -> None:
    """Old files list their weights among the inputs as well."""
    weights = {t.name for t in model.graph.initializer}
    kept = [v for v in model.graph.input if v.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _onnx_signature(graph: Any, file: str) -> Signature:
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


# ---- modules in memory


def _from_object(
    model: Any, name: str, spec: str, specs: Sequence[TensorSpec], sample: Sample | Array | None
) -> Source:
    import torch

    from passes.torch_level.capture import signature_of

    given: Any = None
    if isinstance(model, tuple) and len(model) == 2:
        model, given = model
    if isinstance(model, torch.export.ExportedProgram):
        given = given if given is not None or model.example_inputs is None else model.example_inputs[0]
        dynamic_ranks = _exported_dynamic(model)
        model = model.module()
    else:
        dynamic_ranks = []
    if not isinstance(model, torch.nn.Module):
        raise InvalidInput(
            f"{spec or name} is a {type(model).__name__}, not a torch module",
            hint="return an nn.Module, or (nn.Module, example_inputs)",
        )
    _to_eval(model)
    names = _parameter_names(model)
    example = _example(names, specs, given, sample, spec or name)
    dynamic = {n: dict(d) for n, d in zip(example, dynamic_ranks, strict=False)}
    for item in specs:
        key = item.name or next(iter(example))
        dynamic.setdefault(key, {}).update({i: d for i, d in enumerate(item.shape) if isinstance(d, str)})
    program = Program(
        name=_identifier(name),
        level=Level.TORCH,
        model=model,
        signature=signature_of(model, example, dynamic),
        example=example,
    )
    return Source(spec=spec, program=program)


def _to_eval(model: nn.Module) -> None:
    from torch.fx import GraphModule

    if not isinstance(model, GraphModule):  # the module of an exported program has no modes
        model.eval()


def _exported_dynamic(program: Any) -> list[dict[int, str]]:
    """Varying dimensions of each user input of an exported program."""
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    rows = []
    for user_input in program.graph_signature.user_inputs:
        shape = placeholders[user_input].meta["val"].shape
        rows.append({i: str(d) for i, d in enumerate(shape) if not isinstance(d, int)})
    return rows


def _parameter_names(model: nn.Module) -> list[str]:
    import torch

    if isinstance(model, torch.jit.ScriptModule):
        return [a.name for a in cast(Any, model.forward).schema.arguments if a.name != "self"]
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _example(
    names: Sequence[str], specs: Sequence[TensorSpec], given: Any, sample: Sample | Array | None, what: str
) -> dict[str, Array]:
    """One sample by input name, from the first of: example inputs of the source, --input, data."""
    if given is not None:
        if isinstance(given, Mapping):
            return _in_order({str(k): _to_numpy(v) for k, v in given.items()}, names, what)
        values = list(given) if isinstance(given, (tuple, list)) else [given]
        return {_name(names, i): _to_numpy(v) for i, v in enumerate(values)}
    if specs:
        return {spec.name or _name(names, i): _zeros(spec) for i, spec in enumerate(specs)}
    if isinstance(sample, Mapping):
        return {_name(names, 0) if len(sample) == 1 else k: np.asarray(v) for k, v in sample.items()}
    if sample is not None:
        return {_name(names, 0): np.asarray(sample)}
    raise InvalidInput(
        f"the input shape of {what} is not known",
        hint="return (module, example_inputs) from the factory, or say --input 1x3x224x224",
    )


def _in_order(example: dict[str, Array], names: Sequence[str], what: str) -> dict[str, Array]:
    """Example inputs by name, in the order in which the model takes them."""
    if unknown := sorted(set(example) - set(names)):
        raise InvalidInput(
            f"the example inputs of {what} name {', '.join(unknown)}, its forward takes {', '.join(names)}",
            hint="name them as the forward does, or give a tuple",
        )
    return {name: example[name] for name in names if name in example}


def _name(names: Sequence[str], position: int) -> str:
    return names[position] if position < len(names) else f"input_{position}"


def _to_numpy(value: Any) -> Array:
    import torch

    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


# ---- shapes


def parse_input(text: str) -> TensorSpec:
    """`[name=]1x3x224x224[:dtype]` as a TensorSpec; letters are dimensions that vary.

    Raises:
        InvalidInput: it does not read like that.
    """
    name, _, rest = text.rpartition("=")
    shape, _, dtype = rest.partition(":")
    try:
        dims = tuple(int(d) if d.lstrip("-").isdigit() else _symbol(d) for d in shape.split("x"))
        if any(isinstance(d, int) and d < 1 for d in dims):
            raise ValueError("sizes must be positive")
        return TensorSpec(name, np.dtype(dtype or "float32").name, dims)
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"--input {text!r}: {error}", hint="write it like image=1x3x224x224 or ids=1x16:int64"
        ) from error


def _symbol(text: str) -> str:
    if not text.isidentifier():
        raise ValueError(f"{text!r} is neither a size nor a name")
    return text


def _stated(spec: TensorSpec, stated: Sequence[TensorSpec]) -> TensorSpec:
    for other in stated:
        if other.name in (spec.name, "") and len(other.shape) == len(spec.shape):
            return TensorSpec(spec.name, spec.dtype, other.shape)
    return spec


def _zeros(spec: TensorSpec) -> Array:
    """A sample of a spec's shape; a varying first dimension counts one, others two: one could be taken for fixed."""
    shape = tuple(d if isinstance(d, int) else 1 if i == 0 else 2 for i, d in enumerate(spec.shape))
    return np.zeros(shape, spec.dtype)


def _factory_name(spec: str) -> str:
    """`nets:resnet` is called resnet; `resnet:build` is called resnet too."""
    module, _, function = spec.rpartition(":")
    says_nothing = function.rpartition(".")[2] in ("build", "create", "factory", "load", "make", "main", "model", "net")
    return module.rpartition(".")[2] if says_nothing else function.rpartition(".")[2]


def _identifier(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "_-" else "_" for c in name)
    return kept or "model"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
