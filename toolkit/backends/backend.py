"""What a backend is: it writes the file that a stack runs, and may be able to run it on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from passes.dataset import Array, Sample
from passes.program import Program
from targets.stack import Stack

__all__ = ["Artifact", "Backend", "Runnable"]

Runnable = Any
"""A callable from a sample to answers by output name."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file that a backend made.

    Args:
        file: Its name in the bundle.
        format: onnx, tflite and so on.
        complete: The stack runs this very file; where False, `remaining` says what is still to be done, and where.
        remaining: The next step towards the device, as a command where there is one.
        checked: What gave the answers of golden.npz, where it was not the file itself.
        memory: Bytes that a process holds, by cause, where the backend planned every one of them.
    """

    file: str
    format: str
    complete: bool
    remaining: str = ""
    checked: str = ""
    memory: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Artifact:
        return cls(**data)


class Backend(Protocol):
    """Lowers a program for the stacks that name it."""

    @property
    def name(self) -> str:
        """As profiles spell it."""

    def check(self, program: Program, stack: Stack) -> None:
        """Refuse a graph, folded and fused, not yet cast or quantized, that `lower` would refuse after all passes."""

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        """Write what `stack` runs into `folder`."""

    def witness(self, folder: Path, artifact: Artifact) -> _Call:
        """What gives the answers of golden.npz: the artefact, or what `Artifact.checked` names in its place."""

    def load(self, artifact: Path, *, threads: int = 1) -> _Call:
        """The artefact as a function on this machine.

        Raises:
            MissingDependency: this machine cannot run it.
        """

    def runs_here(self, artifact: Path) -> str:
        """What `load` loads, and in what: to be said beside a time that was taken here.

        Raises:
            UsageError: it is emulated, and its time tells nothing.
            MissingDependency: its runtime is not installed.
        """


class _Call(Protocol):
    def __call__(self, inputs: Sample) -> dict[str, Array]: ...
