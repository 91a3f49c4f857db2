"""A stack of layers that forgets on the way forward what it can compute again on the way back.

`Checkpointed` keeps the input of every group of stages and nothing inside it; the backward pass computes a group anew
when it comes to it, with the random numbers of the first time. The gradients are the same. Of n equal stages in groups
of g, n/g inputs and the inside of one group are held in place of n insides, for one more forward pass. Where no
gradient is wanted, and in exported graphs, it is a plain sequence. `peak_bytes` measures what a computation holds.

The network here: feed-forward stages x + narrow(dropout(relu(widen(norm(x))))) in the classifier of motion.
Shapes: (B, L, W) to (B, L, W), (B, W) to (B, W). For: training where memory is short.

Source: Chen et al. 2016, arXiv:1604.06174.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from targets.errors import InvalidInput
from toolkit.models.blueprints.motion_classifier import (
    MotionClassifier,
    MotionConfig,
    calibration,
    check_sequence,
    example,
    training,
    validation,
)
from toolkit.models.blueprints.written_norm import WrittenNorm
from toolkit.models.seeded import seeded

__all__ = [
    "Checkpointed", "Config", "FeedForward", "build", "calibration", "example", "peak_bytes", "training", "validation",
]  # fmt: skip


class Config(MotionConfig):
    """The stack, and how much of it is forgotten together."""

    stages: Annotated[int, Field(ge=1, le=256)] = 8
    """Feed-forward stages."""
    group: Annotated[int, Field(ge=1, le=256)] = 2
    """Stages between two inputs that are kept."""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    """Features inside a stage."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the hidden features that training leaves out."""


class Checkpointed(nn.Module):
    """Stages one after the other, checkpointed in groups.

    Args:
        stages: Modules that map one tensor to one tensor.
        group: How many are computed anew together.

    Raises:
        InvalidInput: there are no stages, or groups of none.
    """

    def __init__(self, stages: Sequence[nn.Module], group: int = 1) -> None:
        super().__init__()
        if not stages or group < 1:
            raise InvalidInput(
                f"{len(stages)} stages in groups of {group} are no stack",
                hint="give one stage and a group of one at least",
            )
        self.stages = nn.ModuleList(stages)
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """What the stages make of `x`."""
        for first in range(0, len(self.stages), self.group):
            if _keeps_nothing():
                x = self._run(x, first)
            else:
                x = checkpoint(self._run, x, first, use_reentrant=False)
        return x

    def _run(self, x: Tensor, first: int) -> Tensor:
        for stage in self.stages[first : first + self.group]:
            x = stage(x)
        return x


def _keeps_nothing() -> bool:
    """Whether nothing is kept for a backward pass anyhow, or a graph is being written down."""
    written = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return written or not torch.is_grad_enabled()


class FeedForward(nn.Module):
    """x + narrow(dropout(relu(widen(norm(x)))))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = WrittenNorm(config.width)
        self.widen = nn.Linear(config.width, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.narrow = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) or (B, W), as it came."""
        check_sequence(x, self.widen.in_features)
        result: Tensor = x + self.narrow(self.dropout(torch.relu(self.widen(self.norm(x)))))
        return result


def build(config: Config = Config()) -> nn.Module:
    """The classifier of motion with such a stack."""
    with seeded(config.seed):
        stack = Checkpointed([FeedForward(config) for _ in range(config.stages)], config.group)
        return MotionClassifier(config.width, stack).eval()


# ---- measuring


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that operators made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: set[int] = set()
        self.bytes = self.peak_bytes = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = operator(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in given | self.known:
                self._hold(tensor.untyped_storage())
        return made

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self.known.add(key)
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.bytes -= size


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes of tensors, made while `run` runs on the CPU, that were alive at once.

    Gradients and what is held for the backward pass are counted, where `run` makes them; what was there before, weights
    above all, is not, nor is what an operator needs while it works.
    """
    held = _Held()
    with held:
        run()
    return held.peak_bytes
