"""What programs on an emulated board see as /proc and /sys: runtimes ask there for the cores, and crash without."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.emulator.cores import Core

__all__ = ["board"]

_ARM = 0x41  # the implementer


@contextmanager
def board(system: Path, core: Core, cores: int) -> Iterator[Path]:
    """A folder for QEMU's `-L`: the files of `system` and those that Linux shows of `cores` cores."""
    with tempfile.TemporaryDirectory(prefix="toolkit-board-") as name:
        folder = Path(name)
        for entry in system.iterdir():
            (folder / entry.name).symlink_to(entry.resolve())
        for path, text in _shown(core, cores).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        yield folder


def _shown(core: Core, cores: int) -> dict[str, str]:
    """By path. Layout: Linux, Documentation/ABI/testing/sysfs-devices-system-cpu and arch/arm64/kernel/cpuinfo.c."""
    every = f"0-{cores - 1}\n" if cores > 1 else "0\n"
    of_all = {f"sys/devices/system/cpu/{name}": every for name in ("possible", "present", "online")}
    return {"proc/cpuinfo": "".join(_processor(core, i) for i in range(cores)), **of_all}


def _processor(core: Core, number: int) -> str:
    lines = {
        "processor": str(number),
        "BogoMIPS": "100.00",
        "Features": core.features,
        "CPU implementer": f"0x{_ARM:02x}",
        "CPU architecture": "8",
        "CPU variant": "0x0",
        "CPU part": f"0x{core.part:03x}",
        "CPU revision": "0",
    }
    return "".join(f"{key}\t: {value}\n" for key, value in lines.items()) + "\n"
