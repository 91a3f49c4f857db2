"""The stack as others see it: a program and what is known about it, two files that load on their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passes.program import Program
from targets.errors import InvalidInput
from targets.stack import Stack
from toolkit.backends.ahead_of_time.compiling import Built, compile_executable
from toolkit.backends.ahead_of_time.machines import MACHINES
from toolkit.backends.ahead_of_time.plan import Memory
from toolkit.backends.ahead_of_time.trace import Tensor
from toolkit.backends.backend import Artifact

__all__ = ["AheadOfTime"]

_DESCRIPTION = "program.json"
_UNTUNED = "loops follow rules and were not tuned on the device: its answers and memory are final, its speed is not"


@dataclass(frozen=True)
class AheadOfTime:
    """Writes `program`, a static executable of `machine`, and `program.json`: its tensors and every byte it holds."""

    machine: str = "aarch64-cortex-a72"
    name: str = "ahead_of_time"

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        built = compile_executable(program, MACHINES[self.machine], folder / "program")
        (folder / _DESCRIPTION).write_text(json.dumps(_described(built), indent=2) + "\n")
        return Artifact(file="program", format="executable", complete=False, remaining=_UNTUNED)

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


def _described(built: Built) -> dict[str, Any]:
    return {
        "machine": built.machine.name,
        "tuned": False,
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
