"""How long submissions take by the device's own clock: neither the host, nor the way there and back, is in it."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Clock"]


class Clock:
    """Two readings around each submission, fetched at the end."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._staged: list[Any] = []

    def marks(self, passes: int) -> tuple[Any, list[dict[str, Any]]]:
        """Where the readings of one submission go, and what `begin_compute_pass` is to be told for each pass of it."""
        queries = self._handle.create_query_set(type="timestamp", count=2)
        writes: list[dict[str, Any]] = [{"query_set": queries} for _ in range(passes)]
        writes[0]["beginning_of_pass_write_index"] = 0
        writes[-1]["end_of_pass_write_index"] = 1
        return queries, [{"timestamp_writes": one} if len(one) > 1 else {} for one in writes]

    def fetch(self, encoder: Any, queries: Any) -> None:
        """Have the readings copied back behind the passes of `encoder`."""
        import wgpu

        use = wgpu.BufferUsage
        resolved = self._handle.create_buffer(size=16, usage=use.QUERY_RESOLVE | use.COPY_SRC)
        staging = self._handle.create_buffer(size=16, usage=use.MAP_READ | use.COPY_DST)
        encoder.resolve_query_set(queries, 0, 2, resolved, 0)
        encoder.copy_buffer_to_buffer(resolved, 0, staging, 0, 16)
        self._staged.append(staging)

    def seconds(self) -> list[float]:
        """Of each submission; waits for all of them."""
        from wgpu import MapMode
        from wgpu.backends.wgpu_native import lib

        tick_s = lib.wgpuQueueGetTimestampPeriod(self._handle.queue._internal) * 1e-9  # wgpu-py does not wrap it
        taken = []
        for staging in self._staged:
            staging.map_sync(MapMode.READ)
            start, end = np.frombuffer(staging.read_mapped(copy=True), np.uint64)
            staging.destroy()
            taken.append((int(end) - int(start)) * tick_s)
        return taken
