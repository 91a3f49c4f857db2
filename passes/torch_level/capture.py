"""A torch module as a graph: captured by torch.export, digested, and run on numpy samples."""

from __future__ import annotations

import hashlib
import io
import os
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.dataset import Array, Sample
from passes.program import Program
from passes.quiet import quiet_libraries
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

__all__ = ["capture", "export_errors", "signature_of", "source_lines", "torch_digest", "torch_runner"]


@contextmanager
def export_errors(name: str) -> Iterator[None]:
    """Turn whatever torch's exporters raise on a user's module into InvalidInput."""
    try:
        yield
    except (KeyboardInterrupt, MemoryError, InvalidInput):
        raise
    except Exception as error:  # the exporters raise anything, the user's own forward included
        raise InvalidInput(
            f"{name} cannot be captured as a graph: {_said(error)}",
            hint="rewrite that line without data-dependent Python (torch.where or torch.cond choose between tensors); "
            "fix a size that may not vary with --input; or export the model to ONNX yourself; -vv shows the trace",
        ) from error


@contextmanager
def _running(name: str, on: str) -> Iterator[None]:
    """What the user's forward raises on the user's example is the user's to see."""
    try:
        yield
    except (MemoryError, InvalidInput):
        raise
    except Exception as error:
        raise InvalidInput(
            f"{name} cannot be run {on}: {type(error).__name__}: {_said(error)}",
            hint="correct the model, or the shapes and types of its example inputs (--input states them); "
            "-vv shows the whole trace",
        ) from error


def _said(error: Exception) -> str:
    """The first line of what an error says, what it says of sizes that may not vary, and the user's line behind it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0][:300] if lines else type(error).__name__
    if first.startswith("Constraints violated"):
        details = " ".join(line.removeprefix("- ") for line in lines[1:] if line.startswith("- "))
        first = f"{first.partition('!')[0]}: {details.partition(' If you')[0][:300]}"
    return first + _user_line(error)


def _user_line(error: Exception) -> str:
    """` (nets.py:18)` for the innermost line outside of Python, torch and this package; empty where there is none."""
    import torch

    library, python = os.path.dirname(torch.__file__), os.path.dirname(os.__file__)
    ours = os.path.dirname(os.path.dirname(__file__))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename
        standard = file.startswith(python) and "site-packages" not in file
        if not (standard or file.startswith((library, ours, "<"))):
            return f" ({os.path.basename(file)}:{frame.lineno})"
    return ""


def capture(program: Program) -> ExportedProgram:
    """The graph of a torch-level program, its varying dimensions kept symbolic."""
    import torch

    args = tuple(to_tensor(_widened(program.example[spec.name], spec)) for spec in program.signature.inputs)
    unsaid = redirect_stderr(io.StringIO())  # torch prints the graph as far as it came
    with quiet_libraries(), unsaid, export_errors(program.name), torch.no_grad():
        try:
            return torch.export.export(program.model, args, dynamic_shapes=_dynamic(program.signature), strict=False)
        except torch._dynamo.exc.UserError as first:
            if "Constraints violated" not in str(first):
                raise
            return _with_guards(program, args, first)


def _with_guards(program: Program, args: tuple[torch.Tensor, ...], first: Exception) -> ExportedProgram:
    """Let sizes vary within the bounds that the model itself sets: a stride wants more than one pixel."""
    import torch
    from torch.export import Dim

    varying = tuple({i: Dim.DYNAMIC for i, d in enumerate(spec.shape) if isinstance(d, str)}
                    for spec in program.signature.inputs)  # fmt: skip
    try:
        return torch.export.export(program.model, args, dynamic_shapes=varying, strict=False)
    except Exception:  # torch raises anything here; the first refusal names the user's sizes
        raise first from None


def _widened(array: Array, spec: TensorSpec) -> Array:
    """The sample with at least two along each varying dimension: torch.export takes a size of one for fixed."""
    shape = [
        max(2, have) if isinstance(want, str) else have for want, have in zip(spec.shape, array.shape, strict=True)
    ]
    return np.resize(array, shape)


def _dynamic(signature: Signature) -> tuple[dict[int, Any], ...] | None:
    from torch.export import Dim

    dims = {d: Dim(d) for spec in signature.inputs for d in spec.shape if isinstance(d, str)}
    if not dims:
        return None
    return tuple({i: dims[d] for i, d in enumerate(spec.shape) if isinstance(d, str)} for spec in signature.inputs)


def torch_digest(program: Program) -> str:
    """SHA-256 of a torch-level program: the captured graph's code and every tensor of its state."""
    state = hashlib.sha256(str(program.signature).encode())
    if is_script(program.model):
        return _script_digest(program.model, state)
    for (
        name,
        part,
    ) in program.exported.graph_module.named_modules():  # branches of control flow are modules of their own
        state.update(f"{name}|{getattr(part, 'code', '')}|".encode())
    tensors: Mapping[str, torch.Tensor] = {**program.exported.state_dict, **_tensors(program.exported.constants)}
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        state.update(_raw(value))
    return state.hexdigest()


def _script_digest(model: Any, state: hashlib._Hash) -> str:
    """Over the archive that TorchScript saves itself as: code, attributes, constants and weights."""
    import torch

    file = io.BytesIO()
    with quiet_libraries(), export_errors("the TorchScript module"):
        torch.jit.save(model, file)  # type: ignore[no-untyped-call]
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith((".debug_pkl", "serialization_id")):
                state.update(name.encode() + archive.read(name))
    return state.hexdigest()


def source_lines(program: Program) -> str:
    """The user's lines that end up in the exported graph: they are in its bytes, but not in the model's identity."""
    if is_script(program.model):
        return ""
    return "\n".join(n.meta.get("stack_trace") or "" for n in program.exported.graph.nodes)


def _tensors(constants: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {name: value for name, value in constants.items() if isinstance(value, torch.Tensor)}


def _raw(value: torch.Tensor) -> bytes:
    import torch

    raw: bytes = value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
    return raw


def is_script(model: Any) -> bool:
    import torch

    return isinstance(model, torch.jit.ScriptModule)


def torch_runner(program: Program) -> Callable[[Sample], dict[str, Array]]:
    """A function from a numpy sample to numpy answers by output name."""
    import torch

    model: nn.Module = program.model

    def run(sample: Sample) -> dict[str, Array]:
        args = [to_tensor(sample[spec.name]) for spec in program.signature.inputs]
        with torch.no_grad(), _one_thread():
            outputs = flatten(model(*args))
        return {spec.name: _numpy(value) for spec, value in zip(program.signature.outputs, outputs, strict=True)}

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums come out the same whatever the number of cores, and small operators do not wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def signature_of(model: nn.Module, example: Mapping[str, Array], dynamic: Mapping[str, Mapping[int, str]]) -> Signature:
    """Run `model` on `example` and name what came out `output`, or `output_0`, `output_1` and so on.

    `dynamic` names the varying dimensions of each input. Which dimensions of the outputs vary is found by running the
    model once more for each symbol, with one more along it.
    """
    inputs = tuple(
        TensorSpec(name, a.dtype.name, tuple(dynamic.get(name, {}).get(i, d) for i, d in enumerate(a.shape)))
        for name, a in example.items()
    )
    outputs = _outputs(model, list(example.values()))
    if complex_ := [a for a in (*example.values(), *outputs) if a.dtype.kind == "c"]:
        raise InvalidInput(
            f"{type(model).__name__} takes or returns {complex_[0].dtype}, which no runtime here does",
            hint="give and return real and imaginary parts as two channels: torch.view_as_real",
        )
    names = ["output"] if len(outputs) == 1 else [f"output_{i}" for i in range(len(outputs))]
    names = [f"{name}_" if name in example else name for name in names]
    shapes: list[list[int | str]] = [list(a.shape) for a in outputs]
    base = [_widened(a, spec) for a, spec in zip(example.values(), inputs, strict=True)]
    symbols = sorted({d for spec in inputs for d in spec.shape if isinstance(d, str)})
    before = _outputs(model, base) if symbols else []
    for symbol in symbols:
        grown = [_grown(a, spec, symbol) for a, spec in zip(base, inputs, strict=True)]
        size = next(a.shape[s.shape.index(symbol)] for a, s in zip(grown, inputs, strict=True) if symbol in s.shape)
        after = _outputs(model, grown, f"with {symbol} = {size}")
        for name, shape, small, large in zip(names, shapes, before, after, strict=True):
            for i, (was, now) in enumerate(zip(small.shape, large.shape, strict=True)):
                if was != now:
                    shape[i] = symbol if now == size else f"{name}_{i}"
    return Signature(
        inputs,
        tuple(TensorSpec(n, a.dtype.name, tuple(s)) for n, a, s in zip(names, outputs, shapes, strict=True)),
    )


def _outputs(model: nn.Module, arrays: Sequence[Array], on: str = "on its example inputs") -> list[Array]:
    import torch

    with torch.no_grad(), _running(type(model).__name__, on):
        return [_numpy(t) for t in flatten(model(*(to_tensor(a) for a in arrays)))]


def _grown(array: Array, spec: TensorSpec, symbol: str) -> Array:
    """The sample with one more along every dimension called `symbol`."""
    return np.resize(array, [n + (d == symbol) for n, d in zip(array.shape, spec.shape, strict=True)])


def flatten(outputs: Any) -> list[Any]:
    """The tensors in whatever a forward returns, in order.

    Raises:
        InvalidInput: it returned something else than tensors.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    leaves = [leaf for leaf in tree_leaves(outputs) if leaf is not None]
    if not leaves or any(not isinstance(leaf, torch.Tensor) for leaf in leaves):
        kinds = sorted({type(leaf).__name__ for leaf in leaves}) or ["nothing"]
        raise InvalidInput(
            f"the model returns {', '.join(kinds)}, not tensors", hint="return a tensor, or a tuple or dict of tensors"
        )
    return leaves


def to_tensor(array: Array) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(array))


def _numpy(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().cpu().numpy()
    return array
