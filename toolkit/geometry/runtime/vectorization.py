"""Whole batches in one call, without new memory at every step, and on as many threads as pay.

What is measured against is the best plain form in torch, not a loop in Python: `toolkit.bench.tiled_attention runtime`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import Tensor, nn

from toolkit.errors import GeometryError

__all__ = ["Diffusion", "ThreadReport", "VectorizationSystem", "threads", "tune_threads"]

Item = Callable[[Tensor], Tensor]

_WORTH = 0.95
"""More threads are used only where they take less than this share of the time of fewer."""


class VectorizationSystem:
    """Batched entry points: each takes a function of one item and all items, and makes one pass of operators.

    Args:
        chunk: Items at a time; None takes all at once. Smaller ones hold less memory.
    """

    def __init__(self, chunk: int | None = None) -> None:
        if chunk is not None and chunk < 1:
            raise GeometryError(f"{chunk} items at a time", hint="choose 1 or more, or None for all")
        self.chunk = chunk

    def vectorize_pattern_dynamics(self, step: Item, states: Tensor) -> Tensor:
        """`step` of one state [C, H, W] on all of [n, C, H, W]."""
        return self._mapped(step, states)

    def vectorize_geometric_flow(self, function: Item, points: Tensor) -> Tensor:
        """`function` of one point or metric on all of [n, ...]: Christoffel symbols, curvature, a step of a flow."""
        return self._mapped(function, points)

    def vectorize_attention(self, layer: nn.Module, sequences: Sequence[Tensor]) -> list[Tensor]:
        """A layer that takes (batch, length, width) and a mask, on sequences of any lengths (N, width) at once.

        Shorter ones are filled up and masked; each answer has its own length.
        """
        if not sequences:
            raise GeometryError("no sequences to attend over", hint="give one or more, (length, width) each")
        longest = max(len(x) for x in sequences)
        batch = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
        lengths = torch.tensor([len(x) for x in sequences], device=batch.device)
        mask = torch.arange(longest, device=batch.device)[None] < lengths[:, None]
        answers = layer(batch) if bool(mask.all()) else layer(batch, mask)
        return [answer[:length] for answer, length in zip(answers, lengths.tolist(), strict=True)]

    def optimize_memory_access(self, operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`operation(*tensors, out=...)` with its result in a buffer of its own for each shape, and inputs contiguous.

        The result is overwritten by the next call of the same shapes: copy what is to be kept.
        """
        buffers: dict[tuple[tuple[int, ...], ...], Tensor] = {}

        def run(*tensors: Tensor) -> Tensor:
            ready = [x.contiguous() for x in tensors]
            key = tuple(tuple(x.shape) for x in ready)
            if key not in buffers:
                buffers[key] = operation(*ready, out=None).contiguous()
                return buffers[key]
            return operation(*ready, out=buffers[key])

        return run

    def _mapped(self, function: Item, items: Tensor) -> Tensor:
        if items.ndim == 0 or not len(items):
            raise GeometryError(f"items come as {tuple(items.shape)}", hint="give one or more along the first axis")
        found: Tensor = torch.func.vmap(function, chunk_size=self.chunk)(items)
        return found


class Diffusion:
    """Explicit steps u ← u + r Δu on periodic grids [..., H, W], five points, without a new tensor.

    The state lies in a buffer with a rim of one cell, which each step copies from the other side. All views are made
    once: no rolled copies, no convolution.

    Args:
        state: Where it starts; it is copied.
        rate: r = D dt / h², for stability at most 1/4.

    Raises:
        GeometryError: a rate that grows without bound, or no grid.
    """

    def __init__(self, state: Tensor, rate: float) -> None:
        if not 0 <= rate <= 0.25:
            raise GeometryError(f"a rate of {rate} is unstable", hint="choose D dt / h² from 0 to 1/4")
        if state.ndim < 2 or 0 in state.shape:
            raise GeometryError(f"a grid of {tuple(state.shape)}", hint="give [..., H, W], both 1 or more")
        self.rate = rate
        height, width = state.shape[-2:]
        whole = state.new_zeros(*state.shape[:-2], height + 2, width + 2)
        rows, columns = whole[..., 1:-1], whole[..., 1:-1, :]
        self.state = rows[..., 1:-1, :]
        """[..., H, W], as it is now: a view, which the next step changes."""
        self.state.copy_(state)
        self._rims = ((rows[..., 0, :], rows[..., -2, :]), (rows[..., -1, :], rows[..., 1, :]),
                      (columns[..., 0], columns[..., -2]), (columns[..., -1], columns[..., 1]))  # fmt: skip
        self._above, self._below = rows[..., :-2, :], rows[..., 2:, :]
        self._left, self._right = columns[..., :-2], columns[..., 2:]
        self._sum = torch.empty_like(state)

    def step_(self) -> Tensor:
        """One step; the state behind it."""
        for rim, other_side in self._rims:
            rim.copy_(other_side)
        torch.add(self._above, self._below, out=self._sum).add_(self._left).add_(self._right)
        return self.state.mul_(1 - 4 * self.rate).add_(self._sum, alpha=self.rate)


@dataclass(frozen=True)
class ThreadReport:
    """What each number of threads took, and the fewest that are near the best."""

    seconds: dict[int, float]
    best: int

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def tune_threads(durations: Callable[[int], Sequence[float]], counts: Sequence[int]) -> ThreadReport:
    """The fewest threads that more would beat by less than a twentieth.

    Args:
        durations: Seconds of several runs with so many threads; who measures sets them, by `threads`.
        counts: To try, all 1 or more.

    Raises:
        GeometryError: no count, or one below 1.
    """
    if not counts or min(counts) < 1:
        raise GeometryError(f"threads to try: {list(counts)}", hint="give one count or more, each 1 or more")
    taken = {count: median(durations(count)) for count in sorted(set(counts))}
    best = min(taken)
    for count, seconds in taken.items():
        if seconds < _WORTH * taken[best]:
            best = count
    return ThreadReport(taken, best)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch on so many threads within the block; as before behind it.

    Raises:
        GeometryError: fewer than one.
    """
    if count < 1:
        raise GeometryError(f"{count} threads", hint="choose 1 or more")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
