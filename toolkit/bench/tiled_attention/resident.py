"""What a process has resident at most, beside what the meter counts: attention and its peers, each in a fresh process.

The meter of live bytes sees the tensors that operators make. Scratch memory within a kernel, what an allocator keeps
and what it gives back it does not see; the operating system does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from toolkit.bench.tiled_attention.speed import layers, peaks, tokens
from toolkit.geometry.runtime.vectorization import threads

__all__ = ["Resident", "main", "resident"]

_WARM = 64


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Of one way at one length: a forward without gradients, or a forward and backward.

    Args:
        live_bytes: The peak by the meter.
        resident_bytes: By which the peak of the process rose; the system's own count.
        under_dense: Of unfused dense attention's; of resident bytes.
    """

    way: str
    length: int
    gradients: bool
    live_bytes: int
    resident_bytes: int
    under_dense: float
    live_under_dense: float


def resident(lengths: Sequence[int], ways: Sequence[str] = ("unfused", "sdpa", "tiled metric")) -> Iterator[Resident]:
    """Each way at each length, without gradients and with them.

    Args:
        ways: Of `speed.layers`, "unfused" first.
    """
    for length in lengths:
        for gradients in (False, True):
            base: tuple[int, int] | None = None
            for way in ways:
                live, held = _live(way, length, gradients), _asked(way, length, gradients)
                base = base or (live, held)
                yield Resident(
                    way=way, length=length, gradients=gradients, live_bytes=live, resident_bytes=held,
                    under_dense=1 - held / base[1], live_under_dense=1 - live / base[0],
                )  # fmt: skip


def _live(way: str, length: int, gradients: bool) -> int:
    return peaks(layers(False)[way], tokens(length))[gradients]


def _asked(way: str, length: int, gradients: bool) -> int:
    """Bytes by which the peak of a fresh process rose."""
    command = [sys.executable, "-m", "toolkit.bench.tiled_attention.resident", way, str(length), str(int(gradients))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["resident_bytes"])


def main(arguments: Sequence[str]) -> None:
    """`WAY LENGTH GRADIENTS`: do it once in this process, and print by how much its peak rose."""
    way, length, gradients = arguments[0], int(arguments[1]), arguments[2] == "1"
    layer, x = layers(False)[way], tokens(length)
    with threads(1), torch.set_grad_enabled(gradients):
        _run(layer, tokens(_WARM), gradients)  # what torch allocates once
        before = _peak_bytes()
        _run(layer, x, gradients)
    print(json.dumps({"resident_bytes": _peak_bytes() - before}))


def _run(layer: torch.nn.Module, x: torch.Tensor, gradients: bool) -> None:
    answer = layer(x)
    if gradients:
        answer.sum().backward()


def _peak_bytes() -> int:
    """Linux counts the peak of this program alone in VmHWM; that of getrusage begins with its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text("ascii").partition("VmHWM:")[2].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(sys.argv[1:])
