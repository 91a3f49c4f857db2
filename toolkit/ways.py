"""One way in which a model could run: what it changes, what it costs, whether it fits, what makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from passes.program import Program
from targets.errors import UsageError
from targets.estimate import Estimate
from targets.stack import Stack
from targets.verdict import Outcome, Support, Verdict, worst
from toolkit.remedies import Rewritten

__all__ = ["CHANGES", "Training", "Way"]

CHANGES = ("none", "precision", "rewrite", "stack", "resolution", "activation", "prune", "width", "target")
"""Kinds of change. The order is that of what they cost among those that leave the weights alike."""


class Training(StrEnum):
    """What the weights need after a change before the accuracy can be what it was."""

    NONE = "none"
    VALIDATE = "validate"
    FINE_TUNE = "fine-tune"
    TRAIN = "train"

    @property
    def costs(self) -> bool:
        """Whether somebody has to do something about the accuracy."""
        return self is not Training.NONE


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of running a model: what it changes, what it costs, whether it fits, and the command that makes it.

    `change` is one of CHANGES; `size` is bytes of the file with its interval. Where the network itself is changed,
    `graph` is the changed one, which was run and is what the estimate read, and `slug` names its file. `command` is
    empty where no command of the toolkit makes the change. `rewritten` says what was written otherwise, before any
    channels were removed; `share` is that of the channels that were.
    """

    change: str
    description: str
    stack: Stack
    precision: str
    inputs: tuple[str, ...]
    estimate: Estimate
    size: tuple[float, tuple[float, float]]
    verdict: Verdict
    support: Support
    command: str
    training: Training = Training.NONE
    graph: Program | None = field(default=None, repr=False, compare=False)
    slug: str = ""
    rewritten: Rewritten | None = field(default=None, repr=False, compare=False)
    share: float | None = None

    @property
    def outcome(self) -> Outcome:
        return worst(self.verdict.outcome, self.support.outcome)

    @property
    def effort(self) -> tuple[bool, bool, int]:
        """Sorts ways by what they ask for: first none that touches the weights, last another device."""
        return self.change == "target", self.training.costs, CHANGES.index(self.change)

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        found = self.estimate
        return {
            "change": self.change,
            "description": self.description,
            "target": self.stack.target,
            "stack": self.stack.id,
            "precision": self.precision,
            "inputs": list(self.inputs),
            "outcome": str(self.outcome),
            "latency_s": found.latency_s,
            "latency_interval_s": list(found.latency_interval_s),
            "peak_memory_bytes": found.peak_memory_bytes,
            "memory_interval_bytes": list(found.memory_interval_bytes),
            "energy_j": found.energy_j,
            "energy_interval_j": list(found.energy_interval_j),
            "size_bytes": self.size[0],
            "size_interval_bytes": list(self.size[1]),
            "calibrated": found.calibrated,
            "extrapolated": found.extrapolated,
            "provenance": found.provenance,
            "checks": self.verdict.to_json()["checks"],
            "support": self.support.to_json(),
            "training": str(self.training),
            "graph": f"{self.slug}.onnx" if self.graph else None,
            "rewritten": self.rewritten.to_json() if self.rewritten else None,
            "channels_removed_share": self.share,
            "command": self.command,
        }

    def value(self, quantity: str) -> float:
        """The predicted value of a field of Limits."""
        found = self.estimate
        return {
            "latency_s": found.latency_s,
            "memory_bytes": float(found.peak_memory_bytes),
            "energy_j": found.energy_j,
            "size_bytes": self.size[0],
        }[quantity]

    def save(self, folder: Path) -> Path:
        """Write the changed network into `folder`, whole or not at all.

        Raises:
            UsageError: another file has its name, or the folder cannot be written.
        """
        assert self.graph is not None
        path, content = folder / f"{self.slug}.onnx", self.graph.onnx_bytes
        try:
            if path.exists() and path.read_bytes() != content:
                raise UsageError(f"{path} is there already, and is another graph", hint="name another folder")
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}", hint="name another folder") from error
        return path
