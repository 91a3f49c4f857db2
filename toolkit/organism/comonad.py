"""A component among its neighbours: a finite family with one member pointed at, which is a comonad.

Every neighbour's own view is the same family, pointed at that neighbour. That is why `duplicate` is lawful here, and
would not be for the k nearest alone, whose own neighbours nobody knows. Laws, which the tests hold:

    w.duplicate().extract() == w        w.duplicate().map(extract) == w
    w.duplicate().duplicate() == w.duplicate().map(duplicate)

Source: Uustalu, Vene 2008, "Comonadic notions of computation".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["SpatialContext"]

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class SpatialContext(Generic[T]):
    """`items` with `items[index]` in focus.

    Raises:
        ValueError: there are no items, or none at `index`.
    """

    items: tuple[T, ...]
    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < len(self.items):
            raise ValueError(f"the index {self.index} points at none of {len(self.items)} items")

    def extract(self) -> T:
        """What is in focus."""
        return self.items[self.index]

    def map(self, f: Callable[[T], U]) -> SpatialContext[U]:
        """`f` of each item; the focus stays where it is."""
        return SpatialContext(tuple(f(item) for item in self.items), self.index)

    def duplicate(self) -> SpatialContext[SpatialContext[T]]:
        """Each item replaced by the family as that item sees it. The items are shared, not copied."""
        return SpatialContext(tuple(SpatialContext(self.items, j) for j in range(len(self.items))), self.index)

    def extend(self, f: Callable[[SpatialContext[T]], U]) -> SpatialContext[U]:
        """`f` of each item's view: `duplicate().map(f)`, one view at a time."""
        return SpatialContext(tuple(f(SpatialContext(self.items, j)) for j in range(len(self.items))), self.index)

    def neighbors(self) -> tuple[T, ...]:
        """All but the focus, in order."""
        return self.items[: self.index] + self.items[self.index + 1 :]

    def k_nearest(self, k: int, distance: Callable[[T, T], float]) -> tuple[T, ...]:
        """The `k` neighbours at the smallest `distance` from the focus; of equals, those that come first."""
        focus = self.extract()
        return tuple(sorted(self.neighbors(), key=lambda other: distance(focus, other))[:k])
