"""The WGSL kernels on a Vulkan device beside torch on this processor, and on a CUDA device where there is one.

    python -m toolkit.bench.vulkan [--threads N] [--json]

Each kernel is timed four ways: alone, by the device's own clock; with its data on the device, one of eight that are
submitted and waited for together, and one waited for by itself; and with its data carried there and back. torch's data
stay where it computes, on CUDA eight in flight too; it has all processor cores that this process may use. Each answer
is held against float64 before anything is timed. On a driver that computes on the processor there are no times: they
would say nothing about any GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from kernels import KernelUnavailable
from kernels import vulkan as vk
from kernels.bk_core import bk_core
from kernels.vulkan import Array, Device, open_device
from toolkit.calibration.setting import processor
from toolkit.rng import numpy_generator
from toolkit.timing import in_turns_s, spread_s
from toolkit.units import seconds

__all__ = ["GOAL", "Case", "Row", "cases", "main", "measure"]

GOAL = 5.0
"""Times as fast as torch on the processor, eight in flight."""

_ALONE, _IN_FLIGHT = "Vulkan, kernel alone", "Vulkan, eight in flight"
_WAITED, _CARRIED = "Vulkan, waited for", "Vulkan, carried there and back"
_CPU, _CUDA = "torch, CPU", "torch, CUDA"
_CLOCKED = 15
_TOGETHER = 8

_Values = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """An operator at one size: float32 inputs, its Vulkan form, and the same in torch on any device."""

    name: str
    inputs: tuple[_Values, ...]
    on_vulkan: Callable[..., Array]
    in_torch: Callable[..., torch.Tensor]
    allowed: float
    """Largest error, relative to the largest value."""


@dataclass(frozen=True)
class Row:
    """What was found. Times are quartiles and median, in seconds, by who computed; none on software drivers."""

    name: str
    error: float
    allowed: float
    times_s: dict[str, tuple[float, float, float]]

    @property
    def is_met(self) -> bool:
        """Whether the goal is, even between the processor's faster quarter and the device's slower one."""
        return self.times_s[_CPU][0] >= GOAL * self.times_s[_IN_FLIGHT][2]


def cases(small: bool) -> Iterator[Case]:
    """All of them; `small` for drivers that compute on the processor, where the answers alone count."""
    rng = numpy_generator(0, "bench", "vulkan")

    def noise(*shape: int) -> _Values:
        return rng.standard_normal(shape).astype(np.float32)

    eps = float(np.finfo(np.float32).eps)
    for n in (128,) if small else (1024, 2048, 4096):
        yield Case(f"matmul {n} x {n} x {n}", (noise(1, n, n), noise(n, n)), vk.matmul, torch.matmul, n * eps)
    for length in (128,) if small else (1024, 4096):
        qkv = (noise(8, length, 64), noise(8, length, 64), noise(8, length, 64))
        yield Case(f"attention 8 x {length} x 64", qkv, vk.attention,
                   torch.nn.functional.scaled_dot_product_attention, 64 * eps)  # fmt: skip
    for side in (64,) if small else (1024, 2048):
        state = np.abs(noise(1, 2, side, side)) / 4
        yield Case(f"gray_scott 2 x {side} x {side}, 20 steps", (state,), _steps, _steps_in_torch, 64 * eps)
    sites, chains = (256, 64) if small else (1024, 4096)
    z = 0.3 + 0.5j
    yield Case(f"bk_core {chains} x {sites}", (noise(sites, chains),), lambda d, v: vk.bk_core(d, v, z=z),
               lambda v: bk_core(v.T.contiguous(), z=z).T, 4 * eps * (1 + 12 / z.imag))  # fmt: skip


def measure(device: Device, case: Case) -> Row:
    """The error, and where `device` is a GPU the times.

    Raises:
        ArithmeticError: the error is larger than allowed; nothing is timed then.
    """
    there = [device.put(values) for values in case.inputs]
    here = [torch.from_numpy(values) for values in case.inputs]
    found = device.get(case.on_vulkan(device, *there))
    truth = case.in_torch(*(x.double() for x in here)).numpy()
    error = float(np.abs(found.reshape(truth.shape) - truth).max() / np.abs(truth).max())
    if not error <= case.allowed:
        raise ArithmeticError(f"{case.name}: error {error:.1e}, allowed {case.allowed:.1e}")
    return Row(case.name, error, case.allowed, {} if device.is_software else _times(device, case, there, here))


def _times(
    device: Device, case: Case, there: list[Array], here: list[torch.Tensor]
) -> dict[str, tuple[float, float, float]]:
    fence = device.put(np.zeros(1, np.float32))

    def waited_for(count: int = 1) -> None:
        for _ in range(count):
            case.on_vulkan(device, *there)
        device.get(fence)  # copied behind all that was submitted

    def carried() -> None:
        device.get(case.on_vulkan(device, *(device.put(values) for values in case.inputs)))

    runs: dict[str, Callable[[], object]] = {
        _IN_FLIGHT: lambda: waited_for(_TOGETHER), _WAITED: waited_for, _CARRIED: carried,
        _CPU: lambda: case.in_torch(*here),
    }  # fmt: skip
    if torch.cuda.is_available():
        on_cuda = [x.cuda() for x in here]

        def in_cuda() -> None:
            for _ in range(_TOGETHER):
                case.in_torch(*on_cuda)
            torch.cuda.synchronize()

        runs[_CUDA] = in_cuda
    taken = in_turns_s(runs, fewest=8)
    for name in {_IN_FLIGHT, _CUDA} & set(taken):
        taken[name] = [duration / _TOGETHER for duration in taken[name]]
    alone = [device.clocked_s(lambda: case.on_vulkan(device, *there)) for _ in range(_CLOCKED)]
    return {name: spread_s(durations) for name, durations in {_ALONE: alone, **taken}.items()}


def _steps(device: Device, state: Array) -> Array:
    return vk.gray_scott(device, state, steps=20, diffusion=(0.16, 0.08), feed=0.04, kill=0.06, dt=1.0)


def _steps_in_torch(state: torch.Tensor) -> torch.Tensor:
    """The best plain form: in place, inside a ring that holds the other side's edge."""
    ring = state.new_empty(*state.shape[:2], state.shape[2] + 2, state.shape[3] + 2)
    inner = ring[..., 1:-1, 1:-1].copy_(state)
    diffusion = state.new_tensor([0.16, 0.08]).reshape(2, 1, 1)
    change, made = torch.empty_like(state), torch.empty_like(state[:, 0])
    u, v = inner[:, 0], inner[:, 1]
    for _ in range(20):
        ring[..., 0, :], ring[..., -1, :] = ring[..., -2, :], ring[..., 1, :]
        ring[..., 0], ring[..., -1] = ring[..., -2], ring[..., 1]
        torch.add(ring[..., 1:-1, :-2], ring[..., 1:-1, 2:], out=change)
        change.add_(ring[..., :-2, 1:-1]).add_(ring[..., 2:, 1:-1]).sub_(inner, alpha=4).mul_(diffusion)
        torch.mul(v, v, out=made).mul_(u)
        change[:, 0].sub_(made).add_(u, alpha=-0.04).add_(0.04)
        change[:, 1].add_(made).add_(v, alpha=-0.1)
        inner.add_(change)
    return inner.clone()


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.vulkan", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch's; all where left out")
    parser.add_argument("--json", action="store_true", help="print one JSON document, in the end")
    args = parser.parse_args(arguments)
    if args.threads < 1:
        parser.error(f"--threads {args.threads}: at least one is needed")
    try:
        device = open_device()
    except KernelUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        return _json(device) if args.json else _table(device)
    finally:
        torch.set_num_threads(before)


def _facts(device: Device) -> dict[str, object]:
    return {
        "device": device.name, "driver": device.driver, "is_software": device.is_software,
        "processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }  # fmt: skip


def _json(device: Device) -> int:
    rows = [asdict(measure(device, case)) for case in cases(device.is_software)]
    print(json.dumps({"schema": "toolkit.bench.vulkan/2", **_facts(device), "rows": rows}, indent=1))
    return 0


def _table(device: Device) -> int:
    facts = _facts(device)
    print(f"Vulkan: {device.name}, driver {device.driver}")
    print(
        f"torch {facts['torch']}: CPU {facts['processor']}, {facts['threads']} threads; CUDA {facts['cuda'] or 'none'}"
    )
    rows = []
    for case in cases(device.is_software):
        rows.append(measure(device, case))
        print("\n".join(_shown(rows[-1])), flush=True)
    if device.is_software:
        print("not measured: this driver computes on the processor, and its times say nothing about any GPU")
        return 0
    missed = [row.name for row in rows if not row.is_met]
    print(f"goal {GOAL:g}x {_CPU}, eight in flight, quartile against quartile: {len(rows) - len(missed)} of {len(rows)}"
          + (f"; missed by {', '.join(missed)}" if missed else ""))  # fmt: skip
    return 0


def _shown(row: Row) -> list[str]:
    lines = [f"{row.name}: error {row.error:.1e} (allowed {row.allowed:.1e})"]
    against = [name for name in (_CPU, _CUDA) if name in row.times_s]
    for name, (low, middle, high) in row.times_s.items():
        line = f"  {name:<31} {seconds(middle)} [{seconds(low)}, {seconds(high)}]"
        if name not in against:
            for other in against:
                its_low, its_middle, its_high = row.times_s[other]
                line += f"  {its_middle / middle:.2f}x {other} [{its_low / high:.2f}, {its_high / low:.2f}]"
        lines.append(line)
    return lines


if __name__ == "__main__":
    sys.exit(main())
