"""A Ray cluster, here or elsewhere. Wants the extra `search`.

Trials are tasks of one processor. Ray runs a task again whose worker or machine was lost in the middle of it; what is
lost twice is a failure, for it may be the trial that kills its worker. A cluster that is started here listens on the
loopback interface alone, without dashboard, metrics and usage statistics; it ends when it is closed.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from toolkit.errors import MissingDependency, SlimeError
from toolkit.search.executors.interface import guarded
from toolkit.search.executors.pools import check_workers
from toolkit.search.trials import Evaluate, Failure, Trial

__all__ = ["NoCluster", "RayCluster"]

_AGAIN = 1
_PORT = 6379
_REACHED_S = 10.0
_STARTS = 2
"""Ray gives a cluster of its own 30 s to start, which a busy machine may need twice."""
_SILENT = {"RAY_USAGE_STATS_ENABLED": "0"}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray takes the loopback address where it is told that other machines cannot join. It reads this when it is imported:
in a program that imported Ray before, it listens on the machine's own address, and asks for its token there."""
_ELSEWHERE = "start it there by `ray start --head`, see that this machine reaches its port, or correct the address"
_STORE_BYTES = 200 * 2**20
"""Of shared memory for what is sent to workers: an evaluation, and results of some kilobytes."""


class NoCluster(MissingDependency, SlimeError):
    """No Ray cluster answers, or none could be started."""


@dataclass(frozen=True)
class _Running:
    """A trial that was handed out."""

    trial_id: int
    deadline: float | None


class RayCluster:
    """Workers of a Ray cluster. What is evaluated, and what comes of it, must be picklable.

    Args:
        address: "local" starts one on this machine, "auto" is the one that runs here, HOST or HOST:PORT one elsewhere.
        workers: Trials at once; all processors of a cluster that runs already if None.
        limit_s: Seconds that a trial may take, a wait for a free processor among them.

    Raises:
        MissingDependency: Ray is not installed.
        UsageError: no worker, or no time.
        NoCluster: there is none at this address.
    """

    def __init__(self, address: str = "local", *, workers: int | None = None, limit_s: float | None = None) -> None:
        check_workers(1 if workers is None else workers, limit_s)
        self._limit_s = limit_s
        self._ray, self._is_ours = _joined(address, workers)
        self._wanted = workers
        self._task = self._ray.remote(num_cpus=1, max_retries=_AGAIN)(guarded)
        self._running: dict[Any, _Running] = {}
        self._sent: tuple[Evaluate, Any] | None = None

    @property
    def slots(self) -> int:
        """Processors of the cluster, `workers` at most; fewer after a machine was lost."""
        here = int(self._ray.cluster_resources().get("CPU", 0))
        return max(1, len(self._running), here if self._wanted is None else min(self._wanted, here))

    def submit(self, evaluate: Evaluate, trial: Trial) -> None:
        """Begin a trial; its time runs from now.

        Raises:
            SlimeError: all workers are busy.
        """
        if len(self._running) >= self.slots:
            raise SlimeError("all workers are busy", hint="wait for one before the next trial")
        if self._sent is None or self._sent[0] is not evaluate:
            self._sent = evaluate, self._ray.put(evaluate)
        deadline = None if self._limit_s is None else time.monotonic() + self._limit_s
        self._running[self._task.remote(self._sent[1], trial)] = _Running(trial.id, deadline)

    def wait(self, timeout_s: float | None = None) -> list[tuple[int, object]]:
        """See `Executor.wait`. A worker that died twice, or whose time is over, is the failure of its trial."""
        if not self._running:
            return []
        now = time.monotonic()
        ends = [one.deadline - now for one in self._running.values() if one.deadline is not None]
        if timeout_s is not None:
            ends.append(timeout_s)
        self._ray.wait(list(self._running), num_returns=1, timeout=max(0.0, min(ends)) if ends else None)
        done = set(self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)[0])
        now = time.monotonic()
        over = [
            (task, one)
            for task, one in self._running.items()
            if task in done or (one.deadline is not None and now >= one.deadline)
        ]
        return [(one.trial_id, self._outcome(task, task in done)) for task, one in over]

    def close(self) -> None:
        """Kill what runs; and the cluster, if it was started here."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running = {}
        if self._is_ours:
            self._ray.shutdown()
            self._is_ours = False

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _outcome(self, task: Any, is_done: bool) -> object:
        """Of what is over."""
        del self._running[task]
        errors = self._ray.exceptions
        if not is_done:
            self._ray.cancel(task, force=True)
            return Failure("TimeLimit", f"the evaluation took longer than {self._limit_s:g} s")
        try:
            return self._ray.get(task)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            return Failure(
                "WorkerDied", f"the worker ended in the middle of the evaluation, {_AGAIN + 1} times: {error}"
            )
        except errors.RayTaskError as error:
            return Failure(type(error.cause).__name__, str(error))
        except errors.RayError as error:
            return Failure(type(error).__name__, "".join(traceback.format_exception(error)))


def _joined(address: str, workers: int | None) -> tuple[Any, bool]:
    """The module ray, connected; and whether the connection is ours to end."""
    _check_reached(address)
    with _environment(_SILENT | (_LOOPBACK if address == "local" else {})):
        try:
            import ray
        except ImportError as error:
            raise MissingDependency(
                "Ray is not installed: nothing runs on a cluster", hint="pip install 'edge-toolkit[search]'"
            ) from error
        if ray.is_initialized():
            return ray, False
        for start in reversed(range(_STARTS if address == "local" else 1)):
            try:
                ray.init(**_how(address, workers), log_to_driver=False, configure_logging=False)
                break
            except Exception as error:  # Ray has no class for a cluster that does not start
                ray.shutdown()
                if start:
                    continue
                hint = "try again when this machine is less busy" if address == "local" else _ELSEWHERE
                raise NoCluster(f"no Ray cluster at {address!r}: {error}", hint=hint) from error
    return ray, True


def _check_reached(address: str) -> None:
    """Ray itself tries for more than ten minutes to reach an address where nobody answers.

    Raises:
        NoCluster: nobody does.
    """
    host, colon, port = address.rpartition(":")
    if address in ("local", "auto") or "/" in address or (colon and not port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)) if colon else (address, _PORT), timeout=_REACHED_S).close()
    except (OSError, OverflowError) as error:
        raise NoCluster(
            f"no Ray cluster at {address!r}: {getattr(error, 'strerror', None) or error}", hint=_ELSEWHERE
        ) from error


def _how(address: str, workers: int | None) -> Mapping[str, Any]:
    """Arguments of ray.init."""
    if address == "local":
        rules = {"enable_metrics_collection": False, "task_oom_retries": _AGAIN}
        return {"address": "local", "num_cpus": workers or 1, "object_store_memory": _STORE_BYTES,
                "include_dashboard": False, "_node_ip_address": "127.0.0.1", "_system_config": rules}  # fmt: skip
    return {"address": address if address == "auto" or ":" in address else f"{address}:{_PORT}"}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """With `values` in the environment, unless the user has set them."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
