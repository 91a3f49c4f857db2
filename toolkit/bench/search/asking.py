"""Evaluations that are counted, so that every method has as many."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.bench.search.problems import Indices, Point, Problem

__all__ = ["Asked", "Enough", "Method"]


class Enough(Exception):
    """The evaluations are used up."""


class Asked:
    """Counts evaluations, and keeps what they found.

    Args:
        evaluations: How many there may be; the next one raises Enough.
    """

    def __init__(self, problem: Problem, evaluations: int) -> None:
        self.problem, self.left = problem, evaluations
        self.points: list[Point] = []

    def __call__(self, indices: Indices) -> Point:
        if not self.left:
            raise Enough
        self.left -= 1
        self.points.append(self.problem.evaluate(indices))
        return self.points[-1]


Method = Callable[[Asked, int], None]
"""A search with a seed."""
