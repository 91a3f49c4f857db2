"""Whole batches in one call, without new memory at every step, and on as many threads as pay.

What is measured against is the best plain form in torch, not a loop in Python: `toolkit.bench.geometry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import Tensor, nn

from toolkit.errors import GeometryError
from toolkit.geometry.runtime.recording import Recorded

__all__ = ["Diffusion", "ThreadReport", "VectorizationSystem", "threads", "tune_threads"]

Item = Callable[[Tensor], Tensor]

_WORTH = 0.95
"""More threads are used only where they take less than this share of the time of fewer."""


class VectorizationSystem:
    """Batched entry points: each takes a function of one item and all items, and makes one pass of operators.

    Args:
        chunk: Items at a time; None takes all at once. Smaller ones hold less memory.
        record: Whether operators are taken down at the first call with a function and a shape, and replayed by the
            others; see `toolkit.geometry.runtime.recording`, also for what it asks of the function.
    """

    def __init__(self, chunk: int | None = None, *, record: bool = False) -> None:
        if chunk is not None and chunk < 1:
            raise GeometryError(f"{chunk} items at a time", hint="choose 1 or more, or None for all")
        self.chunk = chunk
        self._recorded: dict[Item, Recorded] | None = {} if record else None

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
        """`operation(*tensors, out=...)` on contiguous inputs, with buffers of its own for each shape and dtype.

        The result is overwritten by the next call of the same shapes: copy what is to be kept. Gradients do not pass.
        """
        results: dict[tuple[object, ...], Tensor] = {}
        copies: dict[tuple[object, ...], Tensor] = {}

        def dense(number: int, x: Tensor) -> Tensor:
            if x.is_contiguous():
                return x
            key = (number, x.shape, x.dtype, x.device)
            if key not in copies:
                copies[key] = torch.empty_like(x, memory_format=torch.contiguous_format)
            return copies[key].copy_(x)

        @torch.no_grad()
        def run(*tensors: Tensor) -> Tensor:
            ready = [dense(number, x) for number, x in enumerate(tensors)]
            key = tuple((x.shape, x.dtype, x.device) for x in ready)
            if key not in results:
                results[key] = operation(*ready, out=None).contiguous()
                return results[key]
            return operation(*ready, out=results[key])

        return run

    def _mapped(self, function: Item, items: Tensor) -> Tensor:
        if items.ndim == 0 or not len(items):
            raise GeometryError(f"items come as {tuple(items.shape)}", hint="give one or more along the first axis")
        mapped: Item = torch.func.vmap(function, chunk_size=self.chunk)
        if self._recorded is None:
            return mapped(items)
        return self._recorded.setdefault(function, Recorded(mapped))(items)


class Diffusion:
    """Explicit steps u ← u + r Δu + dt R(u) on periodic grids [..., H, W], five points, without a new tensor but R's.

    The state lies in a buffer with a rim of one cell, which each step copies from the other side. All views are made
    once: no rolled copies, no convolution.

    Args:
        state: Where it starts; it is copied.
        rate: r = D dt / h², for stability at most 1/4; one for all, or one for each species [..., C, H, W].
        reaction: R, of all species at once, as those of `toolkit.geometry.neural.attention.pattern_dynamics`.
        dt: > 0, of the reaction.

    Raises:
        GeometryError: a rate that grows without bound, no grid, as many rates as there are no species, or no step.
    """

    def __init__(
        self, state: Tensor, rate: float | Sequence[float], reaction: Item | None = None, *, dt: float = 1.0
    ) -> None:
        rates = [rate] if isinstance(rate, (int, float)) else list(rate)
        if wrong := [r for r in rates if not 0 <= r <= 0.25]:
            raise GeometryError(f"a rate of {wrong[0]} is unstable", hint="choose D dt / h² from 0 to 1/4")
        if state.ndim < 2 or 0 in state.shape:
            raise GeometryError(f"a grid of {tuple(state.shape)}", hint="give [..., H, W], both 1 or more")
        if len(rates) != 1 and (state.ndim < 3 or len(rates) != state.shape[-3]):
            raise GeometryError(
                f"{len(rates)} rates for a grid of {tuple(state.shape)}", hint="give one, or one for each of [C, H, W]"
            )
        if not dt > 0:
            raise GeometryError(f"a step of {dt}", hint="dt must be positive")
        self._rate = rates[0] if len(rates) == 1 else state.new_tensor(rates)[:, None, None]
        self._keep = 1 - 4 * self._rate
        self._reaction, self._dt = reaction, dt
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
        change = None if self._reaction is None else self._reaction(self.state)
        if isinstance(self._rate, Tensor):
            self.state.mul_(self._keep).addcmul_(self._sum, self._rate)
        else:
            self.state.mul_(self._keep).add_(self._sum, alpha=self._rate)
        return self.state if change is None else self.state.add_(change, alpha=self._dt)


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
