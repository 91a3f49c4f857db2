"""Whole storages that pass from one buffer to the next: how TVM plans, which knows no offsets.

Source: `StaticPlanBlockMemory` of TVM's Relax, whose rule stands in `relax/transform/static_plan_block_memory.cc`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from targets.arena import Buffer

__all__ = ["MATCH_RANGE", "storages"]

MATCH_RANGE = 16
"""A free storage is taken if its size is within this factor of what is wanted."""


def storages(buffers: Sequence[Buffer]) -> list[int]:
    """Bytes of each storage, in the order in which they were made; their sum is what TVM allocates.

    A buffer takes the smallest free storage that holds it, else the largest smaller one, which grows, else a new one.
    """
    sizes: list[int] = []
    free: list[tuple[int, int]] = []  # (size, position), sorted
    ending = sorted((i for i, b in enumerate(buffers) if b.size), key=lambda i: (buffers[i].last, i))
    inside: dict[int, int] = {}
    done = 0
    for index in sorted((i for i, b in enumerate(buffers) if b.size), key=lambda i: (buffers[i].first, i)):
        buffer = buffers[index]
        while buffers[ending[done]].last < buffer.first:
            held = inside[ending[done]]
            insort(free, (sizes[held], held))
            done += 1
        at = bisect_left(free, (buffer.size, -1))
        if at < len(free) and free[at][0] <= buffer.size * MATCH_RANGE:
            held = free.pop(at)[1]
        elif at and free[at - 1][0] >= buffer.size // MATCH_RANGE:
            held = free.pop(at - 1)[1]
            sizes[held] = buffer.size
        else:
            held = len(sizes)
            sizes.append(buffer.size)
        inside[index] = held
    return sizes
