"""The stack as others see it: a program, what is known about it, and its source; they load and build on their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from passes.program import Program
from targets.errors import InvalidInput, UnknownName, UsageError
from targets.stack import Stack
from toolkit.backends.ahead_of_time.building import compiler, compiler_version
from toolkit.backends.ahead_of_time.compiling import Built, compile_executable, compile_source
from toolkit.backends.ahead_of_time.executing import command
from toolkit.backends.ahead_of_time.machines import MACHINES, Machine
from toolkit.backends.ahead_of_time.plan import Memory
from toolkit.backends.ahead_of_time.preparing import refuse
from toolkit.backends.ahead_of_time.trace import Tensor
from toolkit.backends.backend import Artifact

__all__ = ["AheadOfTime"]

_PROGRAM, _DESCRIPTION, _SOURCE, _GRAPH = "program", "program.json", "source", "model.onnx"


@dataclass(frozen=True)
class AheadOfTime:
    """Writes `program`, a static executable, `program.json`: its tensors and every byte it holds, `source/`: the same
    in C with a Makefile, and `model.onnx`, the graph that all were made of.

    Args:
        machine: What is compiled for where the stack names no machine.
    """

    machine: str = "aarch64-cortex-a72"
    name: str = "ahead_of_time"

    def check(self, program: Program, stack: Stack) -> None:
        """What can be known before the passes have run: sizes, operators, and the tools that will be needed.

        Raises:
            InvalidInput: a size varies, or TVM has no converter for an operator.
            MissingDependency: TVM, a compiler or an emulator is not installed.
        """
        machine = self._machine(stack)
        compiler(machine)
        command(machine)
        refuse(program)

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        built = compile_executable(program, self._machine(stack), folder / _PROGRAM)
        compile_source(program, folder / _SOURCE)
        (folder / _GRAPH).write_bytes(program.onnx_bytes)
        (folder / _DESCRIPTION).write_text(json.dumps(_described(built), indent=2) + "\n")
        return Artifact(file=_PROGRAM, format="executable", complete=True, memory=_parts(built))

    def witness(self, folder: Path, artifact: Artifact) -> Built:
        """The program itself, in QEMU where this machine is of another kind."""
        return self.load(folder / artifact.file)

    def load(self, artifact: Path, *, threads: int = 1) -> Built:
        """The program as a function: run as it is, or by QEMU where this machine is of another kind.

        Raises:
            InvalidInput: its description is not beside it, or is damaged.
        """
        path = artifact.with_name(_DESCRIPTION)
        try:
            return _read(artifact, json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{path.name} beside {artifact.name} does not describe a program: {error}",
                hint="compile the model again",
            ) from error

    def runs_here(self, artifact: Path) -> str:
        machine = self.load(artifact).machine
        if command(machine):
            raise UsageError(
                f"{artifact} is for {machine.name}, which is emulated here: its time would tell nothing",
                hint=f"`toolkit verify {artifact.parent} --emulate` counts its instructions",
            )
        return f"{artifact.name}, started anew for each sample"

    def _machine(self, stack: Stack) -> Machine:
        name = stack.machine or self.machine
        if name not in MACHINES:
            raise UnknownName("machine", name, MACHINES)
        return MACHINES[name]


def _parts(built: Built) -> dict[str, int]:
    """What the process holds, by cause; the sum is that of the file and the arena."""
    memory, file = built.memory, built.path.stat().st_size
    return {
        "weights": memory.weight_bytes,
        "activations": memory.arena_bytes - memory.scratch_bytes,
        "scratch": memory.scratch_bytes,
        "code": file - memory.weight_bytes,
    }


def _described(built: Built) -> dict[str, Any]:
    return {
        "machine": built.machine.name,
        "tuned": False,
        "made_by": {"compiler": compiler_version(built.machine), "apache-tvm": version("apache-tvm")},
        "inputs": [asdict(tensor) for tensor in built.inputs],
        "outputs": [asdict(tensor) for tensor in built.outputs],
        "memory": asdict(built.memory),
        "executable_bytes": built.path.stat().st_size,
    }


def _read(path: Path, said: Mapping[str, Any]) -> Built:
    return Built(
        path=path,
        machine=MACHINES[said["machine"]],
        inputs=_tensors(said["inputs"]),
        outputs=_tensors(said["outputs"]),
        memory=Memory(**said["memory"]),
    )


def _tensors(said: list[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(t["name"], t["dtype"], tuple(t["shape"])) for t in said)
