"""In which order the axes of a tensor lie in memory, while the graph speaks of them by their ONNX position.

An order lists the axes as they lie: (0, 2, 3, 1) is a batch of images with the channels last. Convolutions and pools
want that; most operators work in any order; a Transpose of the graph is another order for the same bytes. So copies are
made only where an operator meets an order that it cannot take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from toolkit.backends.litert.tensors import Tensor

__all__ = ["Order", "View", "channels_last", "identity", "regrouped", "same_memory", "widened"]

Order = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """A value of the graph as it is stored: position i of `tensor` holds axis `order[i]` of the value."""

    tensor: Tensor
    order: Order

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value, by its own axes."""
        sizes = dict(zip(self.order, self.tensor.shape, strict=True))
        return tuple(sizes[axis] for axis in range(len(self.order)))


def identity(rank: int) -> Order:
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """Axis 1 behind the others."""
    return (0, *range(2, rank), 1) if rank > 1 else identity(rank)


def same_memory(shape: Sequence[int], a: Order, b: Order) -> bool:
    """Whether both orders lay a value of this shape down alike: axes of size 1 take no part."""
    return [axis for axis in a if shape[axis] != 1] == [axis for axis in b if shape[axis] != 1]


def widened(view: View, rank: int) -> Order:
    """The order of a view whose value gets axes of size 1 in front, up to `rank`."""
    extra = rank - len(view.order)
    return (*range(extra), *(axis + extra for axis in view.order))


def regrouped(shape: Sequence[int], order: Order, to: Sequence[int]) -> tuple[Order, Order]:
    """How a value of `shape` that lies in `order` can be reshaped `to` another without moving more than needed.

    Returns:
        The order in which it must lie for that (the very same one, where nothing has to move), and the order of the
        result, whose elements then lie as they are.
    """
    groups = _groups(shape, to)
    place = {axis: i for i, axis in enumerate(order)}
    met = sorted(groups, key=lambda group: min(place[axis] for axis in group[0]))
    units = [axis for axis in order if shape[axis] == 1]
    needed = (*units, *(axis for before, _ in met for axis in before))
    if same_memory(shape, order, needed):
        needed = order
    new_units = [axis for axis, size in enumerate(to) if size == 1]
    return needed, (*new_units, *(axis for _, after in met for axis in after))


def _groups(shape: Sequence[int], to: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes, without those of size 1, that hold equally many elements before and after."""
    before = [axis for axis, size in enumerate(shape) if size != 1]
    after = [axis for axis, size in enumerate(to) if size != 1]
    groups: list[tuple[list[int], list[int]]] = []
    while before and after:
        taken, given = [before.pop(0)], [after.pop(0)]
        while (have := prod(shape[a] for a in taken)) != (want := prod(to[a] for a in given)):
            if have < want:
                taken.append(before.pop(0))
            else:
                given.append(after.pop(0))
        groups.append((taken, given))
    return groups
