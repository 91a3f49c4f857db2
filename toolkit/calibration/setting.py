"""Where a measurement was made: the columns of a row that tell one machine and runtime from another."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from passes.onnxruntime import import_onnxruntime
from targets.errors import UsageError
from targets.stack import Stack
from targets.target import shipped_target

__all__ = ["check_threads", "processor", "setting"]

_NAMED_IN = (("/proc/device-tree/model", r"([^\0]+)"), ("/proc/cpuinfo", r"(?m)^model name\s*:\s*(.+)$"))


def setting(stack: Stack, *, threads: int, variant: str | None = None) -> dict[str, str]:
    """Device, variant, runtime, precision and threads of what this machine measures as `stack`, by column.

    Args:
        variant: What the rows call this machine; the processor's name where None.
    """
    return {
        "device": stack.measured_as.get("device") or shipped_target(stack.target).title,
        "device_variant": variant or processor(),
        "runtime": "onnxruntime " + ".".join(import_onnxruntime().__version__.split(".")[:2]),
        "precision": stack.precision,
        "threads": str(threads),
    }


def processor() -> str:
    """What this machine calls itself: the board's name, else the processor's, and the number of cores."""
    for file, pattern in _NAMED_IN:
        try:
            text = Path(file).read_text("utf-8", errors="replace")
        except OSError:
            continue
        if found := re.search(pattern, text):
            return f"{' '.join(found[1].split())}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def check_threads(threads: int | None) -> None:
    """Refuse more threads than this machine runs at once: they would wait for one another.

    Raises:
        UsageError: there are more.
    """
    most = os.cpu_count() or 1
    if threads is not None and threads > most:
        raise UsageError(f"{threads} threads on a machine of {most} processors", hint=f"say --threads {most} or fewer")
