"""Threads and processes of this machine.

A slot is a pool of one worker. So a worker that dies or that outlasts its time takes nothing with it but its own trial;
its slot goes on with a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures import Executor as Pool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from toolkit.errors import SlimeError, UsageError
from toolkit.search.executors.interface import guarded
from toolkit.search.trials import Evaluate, Failure, Trial

__all__ = ["Processes", "Threads", "check_workers"]


def check_workers(workers: int, limit_s: float | None) -> None:
    """
    Raises:
        UsageError: no worker, or no time.
    """
    if workers < 1:
        raise UsageError(f"no search on {workers} workers", hint="1 worker or more")
    if limit_s is not None and not limit_s > 0:
        raise UsageError(f"no evaluation ends within {limit_s:g} s", hint="a limit above 0 s")


@dataclass(eq=False)
class _Slot:
    """One worker and what it does."""

    pool: Pool
    pid: Future[int] | None = None
    trial_id: int = -1
    future: Future[object] | None = None
    deadline: float | None = None


class _Pools:
    """Slots that can be made anew."""

    def __init__(self, workers: int, limit_s: float | None) -> None:
        check_workers(workers, limit_s)
        self._limit_s = limit_s
        self._slots: list[_Slot] = [self._new() for _ in range(workers)]

    @property
    def slots(self) -> int:
        """Workers."""
        return len(self._slots)

    def submit(self, evaluate: Evaluate, trial: Trial) -> None:
        """Begin a trial; its time runs from now.

        Raises:
            SlimeError: all workers are busy, or none could be started.
        """
        free = next((slot for slot in self._slots if slot.future is None), None)
        if free is None:
            raise SlimeError("all workers are busy", hint="wait for one before the next trial")
        self._ready(free)
        free.trial_id, free.future = trial.id, free.pool.submit(guarded, evaluate, trial)
        free.deadline = None if self._limit_s is None else time.monotonic() + self._limit_s

    def wait(self, timeout_s: float | None = None) -> list[tuple[int, object]]:
        """See `Executor.wait`. A worker that died, or whose time is over, is the failure of its trial."""
        busy = [slot for slot in self._slots if slot.future is not None]
        if not busy:
            return []
        now = time.monotonic()
        ends = [slot.deadline - now for slot in busy if slot.deadline is not None]
        if timeout_s is not None:
            ends.append(timeout_s)
        patience = max(0.0, min(ends)) if ends else None
        wait([slot.future for slot in busy if slot.future is not None], patience, FIRST_COMPLETED)
        now = time.monotonic()
        return [(slot.trial_id, self._outcome(slot)) for slot in busy if _is_over(slot, now)]

    def close(self) -> None:
        """Kill busy processes; a thread that is busy is left to end by itself, and the program waits for it."""
        for slot in self._slots:
            self._end(slot)
        self._slots = []

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _outcome(self, slot: _Slot) -> object:
        """Of what is over; the slot is free afterwards."""
        future, slot.deadline = slot.future, None
        assert future is not None
        if not future.done():
            self._replace(slot)
            return Failure("TimeLimit", f"the evaluation took longer than {self._limit_s:g} s")
        slot.future = None
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            self._replace(slot)
            return Failure("WorkerDied", "the worker ended in the middle of the evaluation, as by lack of memory")
        if error is not None:
            return Failure(type(error).__name__, "".join(traceback.format_exception(error)))
        return future.result()

    def _replace(self, slot: _Slot) -> None:
        """A new worker in place of one that died or hangs."""
        self._end(slot)
        self._slots[self._slots.index(slot)] = self._new()

    def _new(self) -> _Slot:
        raise NotImplementedError

    def _ready(self, slot: _Slot) -> None:
        """Wait until its worker can begin."""

    def _end(self, slot: _Slot) -> None:
        slot.pool.shutdown(wait=False, cancel_futures=True)


class Threads(_Pools):
    """Threads of this process: for evaluations that wait for something else, or that let others run.

    A thread cannot be killed: one whose time is over is left behind, and the program ends only after it.

    Args:
        workers: Trials at once.
        limit_s: Seconds that a trial may take.

    Raises:
        UsageError: no worker, or no time.
    """

    def __init__(self, workers: int, *, limit_s: float | None = None) -> None:
        super().__init__(workers, limit_s)

    def _new(self) -> _Slot:
        return _Slot(ThreadPoolExecutor(1))


class Processes(_Pools):
    """Processes of this machine. What is evaluated, and what comes of it, must be picklable.

    Args:
        workers: Trials at once.
        limit_s: Seconds that a trial may take; the first of a worker includes the imports that it needs.
        start: How a process begins; "fork" is quick, and unsafe where threads run.

    Raises:
        UsageError: no worker, or no time.
    """

    def __init__(self, workers: int, *, limit_s: float | None = None, start: str = "spawn") -> None:
        self._context = multiprocessing.get_context(start)
        super().__init__(workers, limit_s)

    def _new(self) -> _Slot:
        pool = ProcessPoolExecutor(1, self._context)
        return _Slot(pool, pool.submit(os.getpid))

    def _ready(self, slot: _Slot) -> None:
        assert slot.pid is not None
        try:
            slot.pid.result()
        except BrokenExecutor as error:
            raise SlimeError(
                "a worker process could not be started", hint="guard the script: if __name__ == '__main__'"
            ) from error

    def _end(self, slot: _Slot) -> None:
        if slot.future is not None and slot.pid is not None and not slot.future.done():
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(slot.pid.result(), signal.SIGKILL)
        slot.pool.shutdown(wait=True, cancel_futures=True)


def _is_over(slot: _Slot, now: float) -> bool:
    assert slot.future is not None
    return slot.future.done() or (slot.deadline is not None and now >= slot.deadline)
