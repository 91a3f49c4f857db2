"""The WGSL kernels on a Vulkan device beside torch on this processor, and on a CUDA device where there is one.

    python -m toolkit.bench.vulkan [--json]

Data stay on each device; a run ends when its result is there, of which one number is read back. Each answer is held
against float64 (bk_core: against its float64 form) before anything is timed. On a driver that computes on the processor
there are no times: they would say nothing about any GPU.
"""

from __future__ import annotations

import argparse
import json
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
from toolkit.bench.timing import in_turns_s, spread_s
from toolkit.rng import numpy_generator
from toolkit.units import seconds

__all__ = ["GOAL", "Case", "Row", "cases", "main", "measure"]

GOAL = 5.0
"""Times as fast as torch on the processor."""

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


def cases(small: bool) -> Iterator[Case]:
    """All of them; `small` for drivers that compute on the processor, where the answers alone count."""
    rng = numpy_generator(0, "bench", "vulkan")

    def noise(*shape: int) -> _Values:
        return rng.standard_normal(shape).astype(np.float32)

    n = 128 if small else 1024
    eps = float(np.finfo(np.float32).eps)
    yield Case(f"matmul {n} x {n} x {n}", (noise(1, n, n), noise(n, n)), vk.matmul, torch.matmul, n * eps)
    length = 128 if small else 4096
    qkv = (noise(8, length, 64), noise(8, length, 64), noise(8, length, 64))
    yield Case(f"attention 8 x {length} x 64", qkv, vk.attention,
               torch.nn.functional.scaled_dot_product_attention, 64 * eps)  # fmt: skip
    side = 64 if small else 1024
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

    def on_vulkan() -> None:
        case.on_vulkan(device, *there)
        device.get(fence)  # copied behind all that was submitted

    runs: dict[str, Callable[[], object]] = {"Vulkan": on_vulkan, "torch, CPU": lambda: case.in_torch(*here)}
    if torch.cuda.is_available():
        on_cuda = [x.cuda() for x in here]

        def in_cuda() -> None:
            case.in_torch(*on_cuda)
            torch.cuda.synchronize()

        runs["torch, CUDA"] = in_cuda
    return {name: spread_s(taken) for name, taken in in_turns_s(runs).items()}


def _steps(device: Device, state: Array) -> Array:
    return vk.gray_scott(device, state, steps=20, diffusion=(0.16, 0.08), feed=0.04, kill=0.06, dt=1.0)


def _steps_in_torch(state: torch.Tensor) -> torch.Tensor:
    """The best plain form: one rolled sum for both species."""
    diffusion = torch.tensor([0.16, 0.08], dtype=state.dtype, device=state.device).reshape(2, 1, 1)
    for _ in range(20):
        around = state.roll(1, -1) + state.roll(-1, -1) + state.roll(1, -2) + state.roll(-1, -2)
        u, v = state[:, :1], state[:, 1:]
        made = u * v * v
        change = torch.cat([0.04 * (1 - u) - made, made - 0.1 * v], 1)
        state = state + change + diffusion * (around - 4 * state)
    return state


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.vulkan", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(arguments)
    try:
        device = open_device()
    except KernelUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    rows = [measure(device, case) for case in cases(device.is_software)]
    if args.json:
        facts = {"device": device.name, "is_software": device.is_software, "threads": torch.get_num_threads()}
        print(
            json.dumps({"schema": "toolkit.bench.vulkan/1", **facts, "rows": [asdict(row) for row in rows]}, indent=1)
        )
        return 0
    print(f"{device.name}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    for row in rows:
        print(f"{row.name:<40} error {row.error:.1e} (allowed {row.allowed:.1e})  {_shown(row)}")
    if device.is_software:
        print("not measured: this driver computes on the processor, and its times say nothing about any GPU")
    return 0


def _shown(row: Row) -> str:
    if not row.times_s:
        return "not measured"
    mine = row.times_s["Vulkan"]
    parts = [f"{seconds(mine[1])} [{seconds(mine[0])}, {seconds(mine[2])}]"]
    for name, (low, middle, high) in row.times_s.items():
        if name != "Vulkan":
            goal = f", goal {GOAL:g}" if name == "torch, CPU" else ""
            parts.append(f"{middle / mine[1]:.2f}x {name} [{low / mine[2]:.2f}, {high / mine[0]:.2f}{goal}]")
    return "  ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
