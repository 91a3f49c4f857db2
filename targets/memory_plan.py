"""The plan of a workload's activations: where in one arena each lies, and which operator needs the most."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from targets.arena import Buffer, lower_bound, occupied, pack
from targets.buffers import POINTWISE, buffers_of
from targets.workload import Workload

__all__ = ["ALIGNMENT_BYTES", "MemoryPlan", "plan_memory"]

ALIGNMENT_BYTES = 64
"""A cache line, and the widest vector."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Where each activation lies, in bytes from the start of the arena, and what is held at the worst moment.

    `lower_bound_bytes` is the most that is held at once: no plan in this order of operators needs less. `peak_tensors`
    are what is held at `peak_step`, the largest first; a result that overwrites its operand is named by the operand.
    """

    arena_bytes: int
    lower_bound_bytes: int
    offsets: Mapping[str, int]
    alignment: int
    heuristic: str
    peak_step: int
    peak_operator: str
    peak_tensors: tuple[tuple[str, int], ...]

    @property
    def gap(self) -> float:
        """What the arena has above the lower bound, as a share of it."""
        return self.arena_bytes / self.lower_bound_bytes - 1 if self.lower_bound_bytes else 0.0


def plan_memory(
    workload: Workload,
    *,
    alignment: int = ALIGNMENT_BYTES,
    in_place: Collection[str] = POINTWISE,
    outside: Collection[str] = (),
) -> MemoryPlan:
    """Lay the activations of `workload` out in one arena.

    Args:
        alignment: Offsets are multiples of it, in bytes.
        in_place: Types of operators whose result may overwrite an operand that no one reads later.
        outside: Activations that the caller holds elsewhere.

    Returns:
        `peak_step` is -1 where nothing is held. A network of 66 operators takes about a millisecond, one of 100,000 a
        few seconds; `targets.memory.peak_activation_bytes` gives a bound in a tenth of the time.

    Raises:
        ValueError: `alignment` is not positive.
    """
    buffers, place = buffers_of(workload, in_place=in_place, outside=outside)
    packing = pack(buffers, alignment=alignment)
    step = _fullest(buffers)
    held = sorted(((b.name, b.size) for b in buffers if b.first <= step <= b.last and b.size), key=lambda b: -b[1])
    return MemoryPlan(
        arena_bytes=packing.arena_bytes,
        lower_bound_bytes=lower_bound(buffers),
        offsets={name: packing.offsets[at] for name, at in place.items()},
        alignment=alignment,
        heuristic=packing.heuristic,
        peak_step=step,
        peak_operator=workload.operators[step].name if step >= 0 else "",
        peak_tensors=tuple(held),
    )


def _fullest(buffers: list[Buffer]) -> int:
    """The first of the steps that hold most; -1 where none holds anything."""
    alive = occupied(buffers)
    return alive.index(max(alive)) if any(alive) else -1
