"""Offsets in an arena: valid for any buffers, near the optimum for small ones, fast for many."""

import time
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.arena import Buffer, Packing, lower_bound, occupied, pack


@st.composite
def buffers(draw: st.DrawFn, most: int = 25, steps: int = 12, largest: int = 500) -> list[Buffer]:
    found = []
    for i in range(draw(st.integers(0, most))):
        first = draw(st.integers(0, steps - 1))
        found.append(Buffer(f"b{i}", draw(st.integers(0, largest)), first, draw(st.integers(first, steps - 1))))
    return found


def assert_valid(found: list[Buffer], packing: Packing, alignment: int) -> None:
    """No two buffers that are alive together share a byte, and all lie inside the arena."""
    assert len(packing.offsets) == len(found)
    for i, (a, at) in enumerate(zip(found, packing.offsets, strict=True)):
        assert at % alignment == 0
        assert 0 <= at <= at + a.size <= packing.arena_bytes
        for b, other in zip(found[:i], packing.offsets[:i], strict=True):
            alive_together = a.size and b.size and a.first <= b.last and b.first <= a.last
            assert not alive_together or at + a.size <= other or other + b.size <= at


@given(buffers(), st.sampled_from([1, 8, 64]))
def test_buffers_alive_together_never_overlap(found: list[Buffer], alignment: int) -> None:
    packing = pack(found, alignment=alignment)
    assert_valid(found, packing, alignment)
    assert packing.arena_bytes >= lower_bound(found)


@given(buffers())
def test_the_sweep_for_large_graphs_is_valid_too(found: list[Buffer]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("targets.arena._PAIRS", -1)
        packing = pack(found, alignment=1)
    assert_valid(found, packing, 1)
    assert packing.arena_bytes >= lower_bound(found)


@given(buffers(), buffers(most=1))
def test_one_buffer_more_never_lowers_the_bound(found: list[Buffer], another: list[Buffer]) -> None:
    assert lower_bound([*found, *another]) >= lower_bound(found)


@given(buffers())
def test_what_is_occupied_is_the_sum_of_what_is_alive(found: list[Buffer]) -> None:
    for step, total in enumerate(occupied(found)):
        assert total == sum(b.size for b in found if b.first <= step <= b.last)


def optimum(found: list[Buffer]) -> int:
    """Some order, each buffer as low as those before it allow, gives the smallest arena of all."""
    best = sum(b.size for b in found)
    for order in permutations(range(len(found))):
        offsets: dict[int, int] = {}
        for i in order:
            taken = sorted(
                (offsets[j], offsets[j] + found[j].size)
                for j in offsets
                if found[j].first <= found[i].last and found[i].first <= found[j].last
            )
            at = 0
            for low, high in taken:
                if low - at >= found[i].size:
                    break
                at = max(at, high)
            offsets[i] = at
        best = min(best, max((offsets[i] + found[i].size for i in offsets), default=0))
    return best


@settings(deadline=None)
@given(buffers(most=6, steps=6, largest=9))
def test_small_arenas_are_as_small_as_any(found: list[Buffer]) -> None:
    assert pack(found, alignment=1).arena_bytes == optimum(found)


def test_the_climb_finds_what_the_greedy_orders_miss() -> None:
    found = [
        Buffer("a", 6, 5, 5), Buffer("b", 4, 1, 4), Buffer("c", 9, 4, 4), Buffer("d", 5, 0, 1), Buffer("e", 8, 3, 3),
        Buffer("f", 6, 5, 7), Buffer("g", 4, 3, 5), Buffer("h", 9, 5, 7), Buffer("i", 2, 0, 0), Buffer("j", 7, 0, 2),
        Buffer("k", 9, 6, 7), Buffer("l", 2, 1, 1),
    ]  # fmt: skip
    packing = pack(found, alignment=1)
    assert_valid(found, packing, 1)
    assert packing.heuristic == "hill climb"
    assert packing.arena_bytes == lower_bound(found)


def test_the_same_buffers_are_packed_the_same_way() -> None:
    found = [Buffer(f"b{i}", 64 * (1 + i * 7 % 11), i * 5 % 13, i * 5 % 13 + i % 4) for i in range(40)]
    assert pack(found) == pack(found)


@pytest.mark.parametrize("wrong", [Buffer("b", -1, 0, 0), Buffer("b", 1, 2, 1), Buffer("b", 1, -1, 0)])
def test_buffers_that_cannot_be_are_refused(wrong: Buffer) -> None:
    with pytest.raises(ValueError, match="a buffer must have"):
        pack([wrong])


def test_an_alignment_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="alignment must be positive"):
        pack([], alignment=0)


@pytest.mark.slow
@pytest.mark.parametrize("life", [2, 50_000])
def test_a_hundred_thousand_buffers_take_seconds(life: int) -> None:
    """With neighbours alone alive, and with half of all buffers alive at once."""
    found = [Buffer("", 64 * (1 + i * 7919 % 1000), i, min(i + life, 99_999)) for i in range(100_000)]
    started = time.process_time()
    packing = pack(found)
    assert time.process_time() - started < 10  # a second or two; ten on a machine that is busy
    assert packing.arena_bytes >= lower_bound(found)
