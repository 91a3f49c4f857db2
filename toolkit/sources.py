"""Load a model from whatever the user names: factory, file, the zoo, or a module in memory."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.program import Level, Program
from passes.signature import TensorSpec
from targets.errors import InvalidInput, UnknownName, UsageError
from toolkit.data import load_factory
from toolkit.finite_weights import check_module_weights
from toolkit.fixed_inputs import Fixed, fix_module, parse_fixed
from toolkit.input_shapes import parse_input, varying, zeros
from toolkit.model_files import read_onnx, read_pickle, read_pt2, read_torchscript
from toolkit.models.trained_folder import is_organism, is_trained, open_trained
from toolkit.names import IN_MEMORY
from toolkit.untrusted import file_kind

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EXAMPLE", "Source", "load_source"]

EXAMPLE = "digits"
"""What is compiled when the user names nothing."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A loaded model. `spec` is how the user named it; the data sets are those that come with a zoo model:
    `training` is all that it was trained on, `data` a part of that to calibrate with."""

    spec: str
    program: Program
    data: Dataset | None = None
    validation: Dataset | None = None
    training: Dataset | None = None


def load_source(
    model: Any = None,
    *,
    inputs: Sequence[str] = (),
    fixed: Sequence[str] = (),
    sample: Sample | Array | None = None,
    trust: bool = False,
) -> Source:
    """Load a model.

    Args:
        model: None for the built-in example; a zoo name, or NAME@width=16 with other settings than its own;
            `module:factory`; a path to .onnx, .pt2, .pt (TorchScript); or an nn.Module or ExportedProgram in memory.
        inputs: Shapes where the source does not say them, as `1x3x224x224`, `name=1x3x224x224` or
            `name=1x16:int64`; a letter in place of a number is a dimension that varies.
        fixed: Inputs that become constants, as `sr=16000`.
        sample: One sample, where the caller has data; gives the shapes when `inputs` is silent.
        trust: Load files that could run code.

    Raises:
        InvalidInput: the file is damaged, could run code, or the shapes are not known.
        UnknownName: no file, module or zoo model has this name.
    """
    stated = Stated(tuple(parse_input(text) for text in inputs), parse_fixed(fixed), sample)
    if model is None or isinstance(model, (str, Path)):
        return _load_named(str(model or EXAMPLE), stated, trust)
    module = model[0] if isinstance(model, tuple) and model else model
    return _from_object(model, type(module).__name__.lower(), IN_MEMORY, stated)


@dataclass(frozen=True)
class Stated:
    """What the caller says of the inputs beside the source: shapes, constants, one sample."""

    specs: Sequence[TensorSpec] = ()
    fixed: Fixed = field(default_factory=dict)
    sample: Sample | Array | None = None


def _load_named(spec: str, stated: Stated, trust: bool) -> Source:
    from toolkit import models

    if spec == IN_MEMORY:
        raise UsageError("this recipe was made from a model in memory", hint="name the model: --model")
    path = Path(spec)
    if models.is_name(spec) and not path.exists():
        entry, config = models.configured(spec)
        source = _from_object((entry.build(config), entry.example(config)), entry.name, spec, stated)
        judge = entry.validation(config) if entry.is_trained else None
        return Source(spec=spec, program=source.program, data=entry.calibration(config), validation=judge,
                      training=entry.training(config))  # fmt: skip
    if path.is_file():
        return _from_file(path, stated, trust)
    if ":" in spec and path.suffix != ".onnx":
        return _from_object(load_factory(spec), _factory_name(spec), spec, stated)
    if is_trained(path):
        return _from_trained(path, stated)
    if is_organism(path):
        return _from_organism(path, stated)
    if path.is_dir():
        raise InvalidInput(
            f"{spec} is a folder, not a model", hint="name a file; a finished bundle goes to `toolkit verify`"
        )
    if path.suffix or "/" in spec:
        raise InvalidInput(f"there is no file {spec}", hint="check the path")
    raise UnknownName("model", spec.partition("@")[0], models.names())


def _from_trained(path: Path, stated: Stated) -> Source:
    """What `toolkit train` left, with the zoo's data unless it was trained on the user's."""
    from dataclasses import replace

    found = open_trained(path)
    zoo, config = found.entry, found.config
    source = _from_object((found.model, zoo.example(config)), path.resolve().name, str(path), stated)
    if found.own_data:
        return source
    return replace(source, data=zoo.calibration(config), validation=zoo.validation(config),
                   training=zoo.training(config))  # fmt: skip


def _from_organism(path: Path, stated: Stated) -> Source:
    """The components that live in a folder, frozen, with the samples that lie beside them."""
    from dataclasses import replace
    from importlib import import_module

    found = import_module("toolkit.organism.folder").read_folder(path)  # training's room: entered when named
    source = _from_object((found.model.freeze(), found.example), path.resolve().name, str(path), stated)
    data = found.dataset(path.resolve().name)
    return replace(source, data=data, validation=data if data is not None and data.labels is not None else None)


# ---- files


def _from_file(path: Path, stated: Stated, trust: bool) -> Source:
    kind = file_kind(path)
    if kind == "onnx":
        return Source(spec=str(path), program=read_onnx(path, stated.specs, stated.fixed, stated.sample))
    if kind == "pt2":
        return _from_object(read_pt2(path, trust), path.stem, str(path), stated)
    if kind == "torchscript":
        return _from_object(read_torchscript(path, trust), path.stem, str(path), stated)
    return _from_object(read_pickle(path, trust), path.stem, str(path), stated)


# ---- modules in memory


def _from_object(model: Any, name: str, spec: str, stated: Stated) -> Source:
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
            f"{name} is a {type(model).__name__}, not a torch module",
            hint="return an nn.Module, or (nn.Module, example_inputs)",
        )
    model = _in_eval_mode(model)
    check_module_weights(model, name)
    names, specs = _parameter_names(model), stated.specs
    is_script = isinstance(model, torch.jit.ScriptModule)
    if stated.fixed:
        model, names, given = fix_module(model, names, stated.fixed, given)
    example = _restated(_example(names, specs, given, stated.sample, name), specs, name)
    if stated.fixed and is_script:
        model = _traced(model, example, name)
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
        assumed=varying(specs, list(example)) if given is None else {},
        facts=_facts(model),
    )
    return Source(spec=spec, program=program)


def _facts(model: nn.Module) -> frozenset[str]:
    """What is known of a module before any pass: whether it rounds to grids as it computes."""
    from passes.fake_quant import FakeQuantize

    return frozenset({"fake_quantized"}) if any(isinstance(m, FakeQuantize) for m in model.modules()) else frozenset()


def _traced(model: nn.Module, example: Mapping[str, Array], name: str) -> nn.Module:
    """A module that calls TorchScript, as TorchScript itself: torch.export cannot look into it."""
    import torch

    from passes.quiet import quiet_libraries
    from passes.torch_level.capture import export_errors, to_tensor

    with quiet_libraries(), export_errors(name), torch.no_grad():
        traced: nn.Module = torch.jit.trace(model, tuple(map(to_tensor, example.values())), check_trace=False)  # type: ignore[no-untyped-call]
    return traced


def _in_eval_mode(model: nn.Module) -> nn.Module:
    """The module in eval mode; one that was training stays as it is, and a copy is taken."""
    from torch.fx import GraphModule

    if isinstance(model, GraphModule) or not any(m.training for m in model.modules()):
        return model  # the module of an exported program has no modes
    return copy.deepcopy(model).eval()


def _restated(example: dict[str, Array], specs: Sequence[TensorSpec], what: str) -> dict[str, Array]:
    """The example in the shapes that the user stated; a letter keeps the size that the example has.

    Raises:
        InvalidInput: a stated input does not exist, or has another number of dimensions.
    """
    for item in specs:
        name = item.name or next(iter(example))
        if name not in example or example[name].ndim != len(item.shape):
            known = ", ".join(f"{key}: {list(a.shape)}" for key, a in example.items())
            raise InvalidInput(f"--input {item} fits no input of {what}", hint=f"its inputs are {known}")
        shape = tuple(b if isinstance(a, str) else a for a, b in zip(item.shape, example[name].shape, strict=True))
        if shape != example[name].shape:
            example = {**example, name: np.zeros(shape, example[name].dtype)}
    return example


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
        return {spec.name or _name(names, i): zeros(spec) for i, spec in enumerate(specs)}
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

    if isinstance(value, (list, tuple)) and any(isinstance(part, torch.Tensor) for part in value):
        raise InvalidInput(
            f"an example input is a {type(value).__name__} of tensors, not a tensor",
            hint="wrap the model in one whose forward takes each tensor by itself",
        )
    try:
        array: Array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except TypeError as error:
        raise InvalidInput(
            f"an example input is of a type that numpy lacks: {error}",
            hint="convert the model and its inputs to float32 or float16",
        ) from error
    if array.dtype.kind not in "biufc" and not array.dtype.name.startswith(("bfloat", "float8")):
        raise InvalidInput(
            f"an example input is a {type(value).__name__}, not a tensor",
            hint="give tensors only; wrap a model that takes more in one whose forward takes tensors",
        )
    return array


# ---- names


def _factory_name(spec: str) -> str:
    """`nets:resnet` is called resnet; `resnet:build` is called resnet too."""
    module, _, function = spec.rpartition(":")
    says_nothing = function.rpartition(".")[2] in ("build", "create", "factory", "load", "make", "main", "model", "net")
    return module.rpartition(".")[2] if says_nothing else function.rpartition(".")[2]


def _identifier(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "_-" else "_" for c in name)
    return kept or "model"
