"""The laws of a comonad, and what a component is beside its neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.organism.comonad import SpatialContext
from toolkit.organism.extractors import attention_coherence, behavioral_divergence, gradient_rank, relative_fitness


@st.composite
def contexts(draw: st.DrawFn) -> SpatialContext[int]:
    items = draw(st.lists(st.integers(-3, 3), min_size=1, max_size=8))  # few values, so that items are often equal
    return SpatialContext(tuple(items), draw(st.integers(0, len(items) - 1)))


def total(w: SpatialContext[int]) -> int:
    """A function of a whole view that tells views with equal items apart."""
    return 100 * w.index + 10 * sum(w.neighbors()) + w.extract()


def beside(w: SpatialContext[int]) -> int:
    return w.items[(w.index + 1) % len(w.items)] - w.extract()


@given(contexts())
def test_the_view_of_the_focus_is_the_whole(w: SpatialContext[int]) -> None:
    assert w.duplicate().extract() == w
    assert w.duplicate().map(SpatialContext.extract) == w


@given(contexts())
def test_views_of_views_are_the_same_either_way(w: SpatialContext[int]) -> None:
    assert w.duplicate().duplicate() == w.duplicate().map(SpatialContext.duplicate)


@given(contexts())
def test_extend_is_duplicate_and_map(w: SpatialContext[int]) -> None:
    assert w.extend(total) == w.duplicate().map(total)
    assert w.extend(SpatialContext.extract) == w
    assert w.extend(total).extract() == total(w)


@given(contexts())
def test_extend_is_associative(w: SpatialContext[int]) -> None:
    assert w.extend(beside).extend(total) == w.extend(lambda v: total(v.extend(beside)))


@given(contexts())
def test_rebuilt_neighbour_lists_break_the_law(w: SpatialContext[int]) -> None:
    """Why the whole family is kept: with the k nearest alone, a view of a view is another one."""

    def nearest(v: SpatialContext[int]) -> SpatialContext[int]:
        return SpatialContext((v.extract(), *v.k_nearest(2, lambda a, b: abs(a - b))), 0)

    if len(w.items) > 3 and w.index > 0:
        assert nearest(w) != w


@pytest.mark.parametrize(("items", "index"), [((), 0), ((1, 2), 2), ((1,), -1)])
def test_a_family_has_a_focus(items: tuple[int, ...], index: int) -> None:
    with pytest.raises(ValueError, match="points at none"):
        SpatialContext(items, index)


def test_of_equally_near_the_first_are_taken() -> None:
    w = SpatialContext((5, 3, 7, 4, 6), 0)
    assert w.k_nearest(3, lambda a, b: abs(a - b)) == (4, 6, 3)
    assert w.k_nearest(9, lambda a, b: abs(a - b)) == (4, 6, 3, 7)


def same(x: float) -> float:
    return x


def test_relative_fitness_by_hand() -> None:
    assert relative_fitness(SpatialContext((4.0, 1.0, 3.0), 0), same) == 2.0  # mean 2, standard deviation 1
    assert relative_fitness(SpatialContext((4.0, 1.0), 0), same) == 0.0
    assert relative_fitness(SpatialContext((4.0, 1.0, 1.0), 0), same) == 0.0


def test_divergence_by_hand() -> None:
    rows = (np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.0, 0.0]))
    keep: Callable[[np.ndarray], np.ndarray] = np.asarray
    assert behavioral_divergence(SpatialContext(rows, 0), keep).tolist() == [1.0, -0.5]
    assert behavioral_divergence(SpatialContext(rows[:1], 0), keep).tolist() == [0.0, 0.0]


def test_rank_by_hand() -> None:
    assert gradient_rank(SpatialContext((2.0, 1.0, 2.0, 3.0, 0.0), 0), same) == (2 + 0.5) / 4
    assert gradient_rank(SpatialContext((2.0,), 0), same) == 0.5


def test_coherence_by_hand() -> None:
    rows = (np.array([1.0, 0.0]), np.array([1.0, 1.0]), np.array([1.0, -1.0]))
    keep: Callable[[np.ndarray], np.ndarray] = np.asarray
    assert attention_coherence(SpatialContext(rows, 0), keep) == 1.0
    assert attention_coherence(SpatialContext(rows, 1), keep) == pytest.approx(np.sqrt(0.5) * 1 / np.sqrt(1.25) * 0.5)
    assert attention_coherence(SpatialContext((rows[0],), 0), keep) == 0.0
    assert attention_coherence(SpatialContext((np.zeros(2), rows[1]), 0), keep) == 0.0
