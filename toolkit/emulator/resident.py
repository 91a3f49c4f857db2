"""Memory of a process under QEMU's user mode, told apart from the memory of the emulator."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["guest_bytes", "resident_bytes"]

_MAPPING = re.compile(r"^([0-9a-f]+)-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$")


def resident_bytes(pid: int) -> int:
    """The most that the guest of process `pid` has held so far: what it holds, and by how much all of it was more.

    What the emulator itself holds, translated code above all, only grows: a peak that has passed was the guest's.
    """
    proc = Path("/proc", str(pid))
    status = dict(line.split(":", 1) for line in (proc / "status").read_text("utf-8").splitlines())
    peak, now = (int(status[key].split()[0]) * 1024 for key in ("VmHWM", "VmRSS"))
    return guest_bytes((proc / "smaps").read_text("utf-8")) + max(0, peak - now)


def guest_bytes(smaps: str) -> int:
    """Resident bytes of the mappings that lie below the emulator's own, its heap and its program: the guest's.

    A guest has its own addresses in the emulator's space (user mode, `guest_base` 0), and QEMU places them low.
    """
    rows: list[tuple[int, str, int]] = []
    for line in smaps.splitlines():
        if found := _MAPPING.match(line):
            rows.append((int(found[1], 16), found[2], 0))
        elif line.startswith("Rss:"):
            start, path, _ = rows[-1]
            rows[-1] = (start, path, int(line.split()[1]) * 1024)
    own = min((start for start, path, _ in rows if path == "[heap]" or "/qemu-" in path), default=0)
    return sum(size for start, _, size in rows if start < own)
