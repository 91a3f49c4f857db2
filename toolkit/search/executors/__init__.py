"""Where evaluations run: here, in threads, in processes or on a Ray cluster, behind one interface."""

from __future__ import annotations

from toolkit.errors import UnknownName, UsageError
from toolkit.search.executors.here import Here
from toolkit.search.executors.interface import Executor
from toolkit.search.executors.pools import Processes, Threads
from toolkit.search.executors.ray_cluster import RayCluster

__all__ = ["EXECUTORS", "Executor", "Here", "Processes", "RayCluster", "Threads", "executor"]

EXECUTORS = ("here", "threads", "processes", "ray")


def executor(name: str, *, workers: int, limit_s: float | None = None, address: str | None = None) -> Executor:
    """One of EXECUTORS, to be closed after use.

    Args:
        workers: Trials at once.
        limit_s: Seconds that a trial may take.
        address: Of a Ray cluster, see `RayCluster`; "local" if None.

    Raises:
        UnknownName: there is none of this name.
        UsageError: it cannot be had like this: an address without Ray, several workers or a limit here.
        MissingDependency: Ray is not installed.
    """
    if name not in EXECUTORS:
        raise UnknownName("executor", name, EXECUTORS)
    if address is not None and name != "ray":
        raise UsageError(f"an address is for Ray, and {name!r} has none", hint="add --executor ray, or leave it out")
    if name == "here":
        if workers != 1:
            raise UsageError(f"'here' makes one evaluation at a time, not {workers}", hint="add --executor processes")
        if limit_s is not None:
            raise UsageError("'here' cannot end an evaluation that takes too long", hint="add --executor processes")
        return Here()
    if name == "ray":
        return RayCluster("local" if address is None else address, workers=workers, limit_s=limit_s)
    return (Threads if name == "threads" else Processes)(workers, limit_s=limit_s)
