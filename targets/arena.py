"""Offsets in one arena for buffers that live for some steps: two alive together never overlap.

Finding the smallest arena is NP-hard. Three greedy orders are tried, then a hill climb with a fixed seed that moves the
buffers at the top of the arena forward in the order, until the lower bound is reached or the budget is spent.

Source: Pisarchyk and Lee 2020, arXiv:2001.03288 (greedy by size, greedy by breadth); the hill climb follows TVM's
unified static memory planner.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

__all__ = ["Buffer", "Packing", "lower_bound", "occupied", "pack"]

_PAIRS = 1_000_000  # buffers alive together, counted as pairs; above, one sweep in the order of allocation
_CLIMB_PAIRS = 400_000  # pairs looked at by the hill climb, over all its rounds
_CLIMB_ROUNDS = 300


class Buffer(NamedTuple):
    """`size` bytes held from step `first` to step `last`, both included."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Packing:
    """The offset of each buffer, the bytes of the arena, and the heuristic that found it."""

    offsets: tuple[int, ...]
    arena_bytes: int
    heuristic: str


def occupied(buffers: Sequence[Buffer]) -> list[int]:
    """Bytes held at each step, up to the last at which anything is held."""
    change = [0] * (max((b.last for b in buffers), default=-1) + 2)
    for buffer in buffers:
        change[buffer.first] += buffer.size
        change[buffer.last + 1] -= buffer.size
    alive, total = [], 0
    for delta in change[:-1]:
        total += delta
        alive.append(total)
    return alive


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """No arena is smaller than what is held at once."""
    return max(occupied(buffers), default=0)


def pack(buffers: Sequence[Buffer], *, alignment: int = 64) -> Packing:
    """Offsets, multiples of `alignment`, in the smallest arena that the heuristics find.

    The cost grows with the pairs of buffers that are alive together. Above a million of them only one sweep in the
    order of allocation is made (best fit among the gaps), which takes n log n.

    Raises:
        ValueError: `alignment` is not positive, or a buffer ends before it begins or has a negative size.
    """
    if alignment < 1:
        raise ValueError(f"alignment must be positive, got {alignment}")
    if wrong := [b for b in buffers if b.size < 0 or not 0 <= b.first <= b.last]:
        raise ValueError(f"a buffer must have a size >= 0 and 0 <= first <= last, got {wrong[0]}")
    rounded = [Buffer(b.name, -(-b.size // alignment) * alignment, b.first, b.last) for b in buffers]
    bound = lower_bound(rounded)
    best = _swept(rounded)
    if best.arena_bytes == bound:
        return best
    neighbours = _neighbours(rounded)
    if neighbours is None:
        return best
    for heuristic, order in _orders(rounded):
        found = _placed(rounded, order, neighbours, heuristic)
        if found.arena_bytes < best.arena_bytes:
            best = found
        if best.arena_bytes == bound:
            return best
    return min(best, _climbed(rounded, neighbours, bound), key=lambda packing: packing.arena_bytes)


def _orders(buffers: Sequence[Buffer]) -> list[tuple[str, list[int]]]:
    """Orders in which to place the buffers, by the name of the heuristic."""
    everyone = range(len(buffers))
    by_size = sorted(everyone, key=lambda i: (-buffers[i].size, buffers[i].first))
    by_area = sorted(everyone, key=lambda i: -buffers[i].size * (buffers[i].last - buffers[i].first + 1))
    return [("greedy by size", by_size), ("greedy by breadth", _by_breadth(buffers)), ("greedy by area", by_area)]


def _by_breadth(buffers: Sequence[Buffer]) -> list[int]:
    """Buffers of the steps that hold most come first; within a step, larger before smaller."""
    alive = occupied(buffers)
    fullest = _range_maxima(alive, buffers)
    return sorted(range(len(buffers)), key=lambda i: (-fullest[i], -buffers[i].size))


def _range_maxima(alive: Sequence[int], buffers: Sequence[Buffer]) -> list[int]:
    """The most that is held at once while each buffer lives: a sparse table of maxima over powers of two."""
    table = [list(alive)]
    while 2 << (len(table) - 1) <= len(alive):
        last, half = table[-1], 1 << (len(table) - 1)
        table.append([max(a, b) for a, b in zip(last, last[half:], strict=False)])
    maxima = []
    for buffer in buffers:
        level = (buffer.last - buffer.first + 1).bit_length() - 1
        row = table[level]
        maxima.append(max(row[buffer.first], row[buffer.last + 1 - (1 << level)]))
    return maxima


def _neighbours(buffers: Sequence[Buffer]) -> list[list[int]] | None:
    """For each buffer those that are alive with it; None where there are more pairs than are worth the time."""
    found: list[list[int]] = [[] for _ in buffers]
    alive: list[tuple[int, int]] = []  # (last, index), sorted
    pairs = 0
    for index in sorted(range(len(buffers)), key=lambda i: buffers[i].first):
        buffer = buffers[index]
        del alive[: bisect_left(alive, (buffer.first, -1))]
        if not buffer.size:
            continue
        pairs += len(alive)
        if pairs > _PAIRS:
            return None
        for _, other in alive:
            found[index].append(other)
            found[other].append(index)
        insort(alive, (buffer.last, index))
    return found


def _placed(
    buffers: Sequence[Buffer], order: Sequence[int], neighbours: Sequence[Sequence[int]], heuristic: str
) -> Packing:
    """Place in `order`, each in the tightest gap between the neighbours already placed, else above them."""
    offsets = [-1] * len(buffers)
    arena = 0
    for index in order:
        size = buffers[index].size
        taken = sorted((offsets[j], offsets[j] + buffers[j].size) for j in neighbours[index] if offsets[j] >= 0)
        offset = _best_gap(taken, size)
        offsets[index] = offset
        arena = max(arena, offset + size)
    return Packing(tuple(offsets), arena, heuristic)


def _best_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Offset of the tightest gap of at least `size` bytes below or between sorted spans; else the end of them all."""
    end, tightest, offset = 0, -1, -1
    for low, high in taken:
        gap = low - end
        if gap >= size and (tightest < 0 or gap < tightest):
            tightest, offset = gap, end
        if high > end:
            end = high
    return end if offset < 0 else offset


def _climbed(buffers: Sequence[Buffer], neighbours: Sequence[Sequence[int]], bound: int) -> Packing:
    """From each greedy order: move a buffer that reaches the top of the arena before one that is in its way."""
    random = Random(0)
    pairs = max(1, sum(map(len, neighbours)))
    orders = _orders(buffers)
    rounds = min(_CLIMB_ROUNDS, _CLIMB_PAIRS // pairs) // len(orders)
    best = Packing((), 1 << 62, "")
    for _, order in orders:
        current = _placed(buffers, order, neighbours, "hill climb")
        for _ in range(rounds):
            if current.arena_bytes == bound:
                return current
            moved = _moved(order, current, buffers, neighbours, random)
            found = _placed(buffers, moved, neighbours, "hill climb")
            if found.arena_bytes <= current.arena_bytes:
                order, current = moved, found
        best = min(best, current, key=lambda packing: packing.arena_bytes)
    return best


def _moved(
    order: Sequence[int],
    packing: Packing,
    buffers: Sequence[Buffer],
    neighbours: Sequence[Sequence[int]],
    random: Random,
) -> list[int]:
    """The order with one of the highest buffers placed before one of its neighbours, and of theirs."""
    top = [i for i, b in enumerate(buffers) if b.size and packing.offsets[i] + b.size == packing.arena_bytes]
    high = random.choice(top)
    around = neighbours[high]
    if around and random.random() < 0.5:
        high = random.choice(around)
        around = neighbours[high]
    position = {index: at for at, index in enumerate(order)}
    earlier = [j for j in around if position[j] < position[high]]
    moved = list(order)
    moved.remove(high)
    moved.insert(position[random.choice(earlier)] if earlier else random.randrange(len(order)), high)
    return moved


def _swept(buffers: Sequence[Buffer]) -> Packing:
    """Allocate and free in the order of the steps; each buffer takes the tightest gap, else the arena grows."""
    offsets = [0] * len(buffers)
    gaps = _Gaps()
    ending = sorted((i for i, b in enumerate(buffers) if b.size), key=lambda i: buffers[i].last)
    done = 0
    for index in sorted(range(len(buffers)), key=lambda i: (buffers[i].first, -buffers[i].size)):
        buffer = buffers[index]
        if not buffer.size:
            continue
        while buffers[ending[done]].last < buffer.first:
            gaps.give_back(offsets[ending[done]], buffers[ending[done]].size)
            done += 1
        offsets[index] = gaps.take(buffer.size)
    return Packing(tuple(offsets), gaps.end, "best fit in the order of allocation")


class _Gaps:
    """The free spans of an arena that grows, found by their size in logarithmic time."""

    def __init__(self) -> None:
        self.end = 0
        self._by_size: list[tuple[int, int]] = []  # (size, offset), sorted
        self._by_start: dict[int, int] = {}  # offset: size
        self._by_end: dict[int, int] = {}  # end: offset

    def take(self, size: int) -> int:
        """Offset of the tightest gap; the last gap is enlarged where none is large enough."""
        at = bisect_left(self._by_size, (size, -1))
        if at < len(self._by_size):
            gap, offset = self._by_size[at]
            self._remove(offset, gap)
            self._add(offset + size, gap - size)
            return offset
        offset = self._by_end.get(self.end, self.end)
        if offset < self.end:
            self._remove(offset, self.end - offset)
        self.end = offset + size
        return offset

    def give_back(self, offset: int, size: int) -> None:
        """Free a span, joined with the gaps at its sides."""
        end = offset + size
        if (before := self._by_end.get(offset)) is not None:
            self._remove(before, offset - before)
            offset = before
        if (after := self._by_start.get(end)) is not None:
            self._remove(end, after)
            end += after
        self._add(offset, end - offset)

    def _add(self, offset: int, size: int) -> None:
        if size:
            insort(self._by_size, (size, offset))
            self._by_start[offset] = size
            self._by_end[offset + size] = offset

    def _remove(self, offset: int, size: int) -> None:
        del self._by_size[bisect_left(self._by_size, (size, offset))]
        del self._by_start[offset]
        del self._by_end[offset + size]
