"""Alternatives run in blocks: each warms its own caches, another begins each round, and all is counted by one clock."""

from collections.abc import Callable

import pytest

from toolkit.timing import in_blocks_s


class Machine:
    """A clock, and runs of a stated length that take longer after another's."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.ran: list[str] = []

    def clock(self) -> float:
        return self.now_s

    def run(self, name: str, seconds: float, evicted_s: float) -> Callable[[], None]:
        def once() -> None:
            self.now_s += seconds if self.ran[-1:] == [name] else evicted_s
            self.ran.append(name)

        return once


def test_what_the_neighbour_left_in_the_caches_is_not_counted() -> None:
    machine = Machine()
    runs = {"small": machine.run("small", 0.001, 0.005), "large": machine.run("large", 0.01, 0.02)}
    taken = in_blocks_s(runs, seconds=1.0, clock=machine.clock)
    for name, seconds in (("small", 0.001), ("large", 0.01)):
        assert [duration for block in taken[name] for duration in block if duration != pytest.approx(seconds)] == []


def test_a_block_lasts_as_long_as_it_should_and_another_begins_each_round() -> None:
    machine = Machine()
    runs = {name: machine.run(name, 0.002, 0.002) for name in "abc"}
    taken = in_blocks_s(runs, seconds=0.2, block_s=0.0099, clock=machine.clock)
    assert {len(block) for blocks in taken.values() for block in blocks} == {5}
    order = [name for i, name in enumerate(machine.ran) if i % 6 == 0]  # each block: one run that does not count, five
    assert order[:9] == list("abcbcacab")
    assert len({len(blocks) for blocks in taken.values()}) == 1


def test_what_takes_longer_than_all_runs_once_that_counts() -> None:
    machine, told = Machine(), []
    taken = in_blocks_s({"slow": machine.run("slow", 5.0, 5.0)}, seconds=0.1, clock=machine.clock, progress=told.append)
    assert taken == {"slow": [[5.0]]}
    assert told == [1.0]


def test_progress_grows_to_the_end() -> None:
    machine, told = Machine(), []
    in_blocks_s({"a": machine.run("a", 0.01, 0.01)}, seconds=0.5, clock=machine.clock, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 3
