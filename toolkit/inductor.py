"""A model compiled by torch itself for one kind of machine: a package of AOTInductor, which torch loads and calls.

The package holds machine code: it runs on processors, or graphics cards, like the one that it was compiled on. Float32
convolutions on a GPU are computed in TF32 unless the process that loads it tells torch not to, as in torch itself.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.dataset import Array, Sample
from passes.program import Program
from passes.quiet import quiet_libraries
from passes.torch_level.capture import export_errors, is_script, to_tensor
from targets.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["DEVICES", "compiled_package", "cxx", "package_runner"]

DEVICES = ("cpu", "cuda")


def compiled_package(program: Program, *, device: str, half: bool) -> bytes:
    """The content of a .pt2 that takes and gives what the model does, on `device`.

    Args:
        device: One of `DEVICES`; where the arrays lie that it is called with.
        half: Weights and arithmetic in float16; inputs and outputs stay as they are.

    Raises:
        UsageError: the model is TorchScript.
        MissingDependency: there is no such device, or no C++ compiler that links what torch can load.
        InvalidInput: torch cannot capture the model.
    """
    import torch

    if is_script(program.model):
        raise UsageError("TorchScript cannot become a torch.export program", hint="export the original module")
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependency(
            "torch finds no CUDA device", hint="compile on a machine like the one that will run it, or for --device cpu"
        )
    compiler = cxx()
    args = tuple(to_tensor(program.example[spec.name]).to(device) for spec in program.signature.inputs)
    with quiet_libraries(), warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        with export_errors(program.name):
            exported = torch.export.export(_placed(program.model, device, half), args)
        path = Path(folder, "model.pt2")
        try:
            with torch._inductor.config.patch({"cpp.cxx": (None, compiler)}):
                torch._inductor.aoti_compile_and_package(exported, package_path=str(path))
        except RuntimeError as error:
            raise MissingDependency(
                f"AOTInductor: {' '.join(str(error).split())[:300]}",
                hint="install a C++ compiler (apt-get install g++); in a process that loaded distutils before, export "
                "from the command line; or export --to pt2",
            ) from error
        return path.read_bytes()


_PROBE = "#include <string>\nstd::string probe(int n) { return std::to_string(n); }\n"
_PROBE_S = 120


def cxx() -> str:
    """The C++ compiler for torch: CXX, or the first usual one, that links the C++ library as a shared one.

    Where a package holds a C++ library of its own, two of them share a process once torch loads it: a regular
    expression in the package then takes a part of its locale from the other one, and the process ends with signal 11.

    Raises:
        MissingDependency: there is none.
    """
    stated = os.environ.get("CXX") or "g++"
    found = [name for name in dict.fromkeys((stated, "g++", "clang++")) if shutil.which(name)]
    if sys.platform != "linux" or not found:  # torch says what it lacks
        return stated
    for name in found:
        if _links_shared(name):
            return name
    raise MissingDependency(
        f"{' and '.join(found)} cannot link the C++ library as a shared one: torch crashes on what it would load",
        hint="install one that does (apt-get install g++), and set CXX to it",
    )


def _links_shared(compiler: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "probe.cpp"), Path(folder, "probe.so")
        source.write_text(_PROBE)
        command = [compiler, "-shared", "-fPIC", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=_PROBE_S, stdin=subprocess.DEVNULL)
        return not done.returncode and any(name in made.read_bytes() for name in (b"libstdc++.so", b"libc++.so"))


def package_runner(path: Path, program: Program, *, device: str) -> Callable[[Sample], dict[str, Array]]:
    """The package as a function of a sample, under the names of the model's signature. It runs what it holds."""
    import torch

    with quiet_libraries():
        package = torch._inductor.aoti_load_package(str(path))

    def run(sample: Sample) -> dict[str, Array]:
        with torch.no_grad():
            given = [to_tensor(sample[spec.name]).to(device) for spec in program.signature.inputs]
            answers = package(*given)
        listed = answers if isinstance(answers, (tuple, list)) else (answers,)
        names = [spec.name for spec in program.signature.outputs]
        return {name: answer.cpu().numpy() for name, answer in zip(names, listed, strict=True)}

    return run


def _placed(model: Any, device: str, half: bool) -> nn.Module:
    """A copy of the model on `device`; in float16 inside and as it was outside where `half`."""
    import torch
    from torch import nn
    from torch.utils._pytree import tree_map

    class Halved(nn.Module):
        def __init__(self, inside: nn.Module) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, *given: Tensor) -> Any:
            answers = self.inside(*(_as(each, torch.float32, torch.float16) for each in given))
            return tree_map(lambda each: _as(each, torch.float16, torch.float32), answers)

    placed: nn.Module = copy.deepcopy(model).to(device)
    return Halved(placed.half()) if half else placed


def _as(value: Any, old: Any, new: Any) -> Any:
    return value.to(new) if getattr(value, "dtype", None) == old else value
