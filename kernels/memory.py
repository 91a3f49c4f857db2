"""Memory is asked for before a kernel is launched, not missed in the middle of it."""

from __future__ import annotations

from functools import cache

import torch

__all__ = ["free_bytes", "require"]

_SMALL = 64 * 2**20
"""Below this an allocation is simply tried: asking takes longer than it could save."""

_SHARE = 32
"""On a GPU that is a part of its memory: asking its driver, and torch's own books, takes as long as a kernel."""


def require(operator: str, needed_bytes: int, device: torch.device, *, free: int | None = None) -> None:
    """Nothing, where `needed_bytes` can be had on `device`.

    Args:
        free: What can be had, where the caller knows it; else the driver is asked.

    Raises:
        MemoryError: they cannot; says how much is needed and how much there is.
    """
    if free is None and (needed_bytes < _SMALL or needed_bytes < _small_bytes(device)):
        return
    if free is None:
        free = free_bytes(device)
    if needed_bytes > free:
        raise MemoryError(
            f"{operator} needs {needed_bytes / 1e9:.2f} GB on {device} and {free / 1e9:.2f} GB are free:"
            " give it fewer rows at a time"
        )


@cache
def _small_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return _SMALL
    return int(torch.cuda.get_device_properties(device).total_memory) // _SHARE


def free_bytes(device: torch.device) -> int:
    """What can be allocated on `device`: free in the driver, or kept by torch for the next that asks."""
    if device.type != "cuda":
        return _host_free_bytes()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _host_free_bytes() -> int:
    """Available memory of the host, where the system tells; else no limit is known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines)
    except OSError:
        return 2**62
    return int(found["MemAvailable"].split()[0]) * 1024
