"""Workers that die, hang or answer nonsense cost the trial that they had, and no other."""

from __future__ import annotations

import os
import threading
import time

import pytest

from toolkit.errors import SlimeError, UsageError
from toolkit.search.executors import Here, Processes, Threads
from toolkit.search.trials import Evaluated, Failure, Trial

GOOD = {"latency_s": 0.01}


def trial(number):
    return Trial(number, {"a": number}, str(number), 0, (0, "trial", number), "genetic")


def shaky(trial):
    """By its number: dies, hangs, raises, returns what cannot be sent, or is good."""
    match trial.id % 10:
        case 1:
            os._exit(3)
        case 2:
            time.sleep(600)
        case 3:
            raise ZeroDivisionError("by nothing")
        case 4:
            return threading.Lock()
    return Evaluated(float(trial.id), GOOD)


def late(trial):
    if trial.id == 2:
        time.sleep(2.0)
    if trial.id == 3:
        raise ZeroDivisionError("by nothing")
    return Evaluated(float(trial.id), GOOD)


def all_of(pool, evaluate, numbers):
    """Results by id; never more trials at once than there are slots."""
    waiting, results, busy = list(numbers), {}, 0
    while waiting or busy:
        while waiting and busy < pool.slots:
            pool.submit(evaluate, trial(waiting.pop(0)))
            busy += 1
        for number, result in pool.wait():
            results[number] = result
            busy -= 1
    return results


@pytest.mark.slow
def test_processes_that_die_hang_or_raise_cost_their_own_trial():
    with Processes(2, limit_s=1.0, start="fork") as pool:
        results = all_of(pool, shaky, [0, 1, 2, 3, 4, 5, 6, 7, 8])
    kinds = {number: result.kind for number, result in results.items() if isinstance(result, Failure)}
    assert {number: kinds[number] for number in (1, 2, 3)} == {1: "WorkerDied", 2: "TimeLimit", 3: "ZeroDivisionError"}
    assert "by nothing" in results[3].text
    assert "longer than 1 s" in results[2].text
    assert "pickle" in results[4].text
    assert {n: results[n] for n in (0, 5, 6, 7, 8)} == {n: Evaluated(float(n), GOOD) for n in (0, 5, 6, 7, 8)}


def test_closing_does_not_wait_for_what_hangs():
    pool = Processes(2, start="fork")
    pool.submit(shaky, trial(2))
    pool.submit(shaky, trial(12))
    with pytest.raises(SlimeError, match="all workers are busy"):
        pool.submit(shaky, trial(0))
    assert pool.wait(0.05) == []
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_processes_may_be_spawned():
    with Processes(1) as pool:
        assert all_of(pool, _where, [0])[0].meta["pid"] != os.getpid()


def _where(trial):
    return Evaluated(0.5, GOOD, meta={"pid": os.getpid()})


def test_threads_that_hang_or_raise_cost_their_own_trial():
    with Threads(2, limit_s=0.3) as pool:
        results = all_of(pool, late, [0, 2, 3, 4, 5])
    assert [results[n] for n in (0, 4, 5)] == [Evaluated(float(n), GOOD) for n in (0, 4, 5)]
    assert (results[2].kind, results[3].kind) == ("TimeLimit", "ZeroDivisionError")


def test_threads_work_side_by_side():
    both = threading.Barrier(2)

    def together(trial):
        both.wait(timeout=30)
        return Evaluated(0.5, GOOD)

    with Threads(2) as pool:
        assert set(all_of(pool, together, [0, 1])) == {0, 1}


def test_here_is_one_after_the_other():
    results = all_of(Here(), late, [0, 3, 1])
    assert list(results) == [0, 3, 1]
    assert results[3].kind == "ZeroDivisionError"
    assert Here().wait() == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Threads(0), "no search on 0 workers"),
        (lambda: Processes(1, limit_s=0.0), "no evaluation ends within 0 s"),
        (lambda: Processes(1, limit_s=float("nan")), "no evaluation ends within nan s"),
    ],
)
def test_no_worker_and_no_time(make, said):
    with pytest.raises(UsageError, match=said):
        make()
