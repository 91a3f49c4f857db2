"""Alternatives run in blocks: each warms its own caches, another begins each round, and all is counted by one clock."""

from collections.abc import Callable

import pytest

from toolkit.timing import in_blocks_s, in_turns_s


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
    machine, told = Machine(), list[float]()
    taken = in_blocks_s({"slow": machine.run("slow", 5.0, 5.0)}, seconds=0.1, clock=machine.clock, progress=told.append)
    assert taken == {"slow": [[5.0]]}
    assert told == [1.0]


def test_progress_grows_to_the_end() -> None:
    machine, told = Machine(), list[float]()
    in_blocks_s({"a": machine.run("a", 0.01, 0.01)}, seconds=0.5, clock=machine.clock, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 3


def test_a_block_holds_a_run_that_counts_however_short_it_is() -> None:
    machine, told = Machine(), list[float]()
    runs = {"a": machine.run("a", 0.01, 0.01)}
    taken = in_blocks_s(runs, seconds=0.0, block_s=0.0, fewest=4, clock=machine.clock, progress=told.append)
    assert [len(block) for block in taken["a"]] == [1, 1, 1, 1]
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_all_run_in_turns_as_often_as_they_must_once_they_are_warm() -> None:
    machine = Machine()
    runs = {"a": machine.run("a", 0.25, 0.5), "b": machine.run("b", 1.0, 2.0)}
    taken = in_turns_s(runs, seconds=0.0, fewest=3, warm_ups=2, clock=machine.clock)
    assert "".join(machine.ran) == "aabb" + 3 * "ab"
    assert taken == {"a": [0.5] * 3, "b": [2.0] * 3}


def test_turns_go_on_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr("time.perf_counter", machine.clock)
    runs = {"a": machine.run("a", 0.25, 0.25)}
    assert in_turns_s(runs, seconds=2.0, fewest=1, warm_ups=0, clock=machine.clock) == {"a": [0.25] * 8}
