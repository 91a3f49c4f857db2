"""Write a model as one file and prove that the file answers like the model."""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from passes.compare import compare
from passes.context import synthetic_data
from passes.program import Level, Program
from passes.proof import Drift
from passes.quiet import quiet_libraries
from passes.torch_level.capture import export_errors, is_script, to_tensor
from targets.errors import InvalidInput, UsageError
from targets.target import load_stack
from toolkit.driver import export_program, load_program
from toolkit.inductor import compiled_package, package_runner
from toolkit.sources import load_source

__all__ = ["SUFFIXES", "export_model"]

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2", "litert": ".tflite", "aotinductor": ".aot.pt2"}
_LITERT_STACK = "raspberry_pi_4/tflite-fp32"  # float32; every stack of LiteRT gets the same file


def export_model(
    model: Any = None,
    *,
    to: str,
    output: Path | None = None,
    opset: int | None = None,
    device: str = "cpu",
    half: bool = False,
    force: bool = False,
    **options: Any,
) -> tuple[Path, tuple[Drift, ...]]:
    """Write `model` in the format `to`.

    Args:
        device: What AOTInductor compiles for; see `toolkit.inductor`.
        half: AOTInductor computes in float16.

    Returns:
        The file, and how far its answers are from the model's on synthetic inputs.

    Raises:
        UsageError: an ONNX model cannot become a torch file; or an option of another format.
        InvalidInput: the file exists, or cannot be written.
        MissingDependency: nothing here runs the file, so that nothing could be proved of it.
    """
    if opset is not None and to != "onnx":
        raise UsageError(f"--opset means nothing for {to}", hint="leave it out")
    if to != "aotinductor" and (half or device != "cpu"):
        raise UsageError(
            f"--device and --half mean nothing for {to}", hint="leave them out, or export --to aotinductor"
        )
    graph = to in ("onnx", "litert")
    program = export_program(model, opset=opset, **options) if graph else load_program(model, **options)
    path = output or Path(program.name + SUFFIXES[to])
    if path.exists() and not force:
        raise InvalidInput(f"{path} exists", hint="choose another --output, or replace it with --force")
    if not graph and program.level is Level.ONNX:
        raise UsageError("an ONNX model cannot be written as a torch file", hint="export it --to onnx")
    if to == "aotinductor":
        content = compiled_package(program, device=device, half=half)
    else:
        content = {"onnx": _onnx, "torchscript": _torchscript, "pt2": _pt2, "litert": _litert}[to](program)
    back = _run_by_litert(content, program) if to == "litert" else None
    _replace(path, content)
    if to == "aotinductor":
        back = _run_by(package_runner(path, program, device=device), program)
    elif back is None:
        back = _renamed(load_source(path, inputs=[], sample=program.example).program, program)
    return path, compare(program.truth, back, synthetic_data(program.signature, 0, example=program.example))


def _onnx(program: Program) -> bytes:
    return program.onnx_bytes


def _litert(program: Program) -> bytes:
    from toolkit.backends.litert.tflite import tflite_bytes

    return tflite_bytes(program, load_stack(_LITERT_STACK))


def _run_by_litert(content: bytes, program: Program) -> Program:
    """The program, with answers that LiteRT gives."""
    from toolkit.backends.litert.runtime import Interpreter

    return _run_by(Interpreter(content), program)


def _run_by(runner: Any, program: Program) -> Program:
    return replace(program, reference=None, _answers={}, _kept={"runner": runner})


def _torchscript(program: Program) -> bytes:
    import torch

    if is_script(program.model):
        return _saved(lambda path: torch.jit.save(program.model, path))
    args = tuple(to_tensor(program.example[spec.name]) for spec in program.signature.inputs)
    with quiet_libraries(), export_errors(program.name), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(program.model, args, strict=False)  # type: ignore[no-untyped-call]
    return _saved(lambda path: torch.jit.save(traced, path))


def _pt2(program: Program) -> bytes:
    import torch

    if is_script(program.model):
        raise UsageError("TorchScript cannot become a torch.export program", hint="export the original module")
    with quiet_libraries():
        return _saved(lambda path: torch.export.save(program.exported, path))


def _saved(save: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt2")
        save(path)
        return path.read_bytes()


def _renamed(back: Program, like: Program) -> Program:
    """The loaded file under the signature of the model it was made from: formats rename inputs and outputs."""
    if back.level is Level.ONNX or len(back.signature.outputs) != len(like.signature.outputs):
        return back
    return replace(back, signature=like.signature, reference=None, _answers={}, _kept={})


def _replace(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}", hint="choose another --output") from error
    finally:
        scratch.unlink(missing_ok=True)
