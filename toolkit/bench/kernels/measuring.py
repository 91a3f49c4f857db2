"""From cases to rows: first whether the answer is right, then how long it takes, beside the peers and the floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch

from kernels import KernelUnavailable
from toolkit.bench.kernels.case import Case, Row, Timing
from toolkit.bench.kernels.clock import seconds_in_turns
from toolkit.timing import spread_s

__all__ = ["Ceilings", "ceilings", "measure"]

_OURS = "ours"


@dataclass(frozen=True)
class Ceilings:
    """What this device reaches at best, measured: bytes read and written by a copy, and products of large matrices."""

    bytes_s: float
    flop_s: Mapping[str, float]


def measure(case: Case) -> Row:
    """The case's row; without figures where the answer is wrong or something is missing, and `note` says so."""
    device = torch.device(case.kind)
    row = Row(operator=case.operator, shape=case.shape, device=_name(device), goals=case.goals)
    if case.kind == "cuda" and not torch.cuda.is_available():
        return replace(row, note="not measured: no CUDA device")
    try:
        ways = case.prepare(device)
        error, allowed = ways.error()
        row = replace(row, error=error, allowed_error=allowed)
        if not error <= allowed:
            return replace(row, note=f"WRONG: error {error:.2e}, allowed {allowed:.2e}; not timed")
        taken = seconds_in_turns({_OURS: ways.ours, **ways.peers}, device)
    except (KernelUnavailable, MemoryError, torch.OutOfMemoryError) as missing:
        return replace(row, note=f"not measured: {missing}")
    own = Timing(*spread_s(taken.pop(_OURS)))
    return replace(
        row,
        time=own,
        flop_s=case.flop / own.median_s,
        bytes_s=case.bytes_moved / own.median_s,
        ratios={name: _ratio(spread_s(times), own) for name, times in taken.items()},
        floor_s=_floor_s(case, device),
    )


def _ratio(peer: tuple[float, float, float], own: Timing) -> tuple[float, float, float]:
    """Of the medians, and of the quartiles that are farthest apart."""
    return peer[0] / own.upper_s, peer[1] / own.median_s, peer[2] / own.lower_s


def _floor_s(case: Case, device: torch.device) -> float:
    if device.type != "cuda":
        return 0.0
    best = ceilings(device)
    return max(case.bytes_moved / best.bytes_s, case.flop / best.flop_s[case.peak])


@cache
def ceilings(device: torch.device) -> Ceilings:
    """Measured once a run, with random numbers: zeros are faster than data."""
    rng = torch.Generator(device).manual_seed(0)
    source = torch.empty(2**29, dtype=torch.float32, device=device).normal_(generator=rng)
    target = torch.empty_like(source)
    ways = {"copy": lambda: target.copy_(source)}
    size = 8192
    left = torch.randn(size, size, device=device, generator=rng)
    for name, dtype in {"bf16": torch.bfloat16, "fp32": torch.float32}.items():
        a = left.to(dtype)
        ways[name] = lambda a=a: a @ a  # type: ignore[misc]
    i8 = (left * 32).to(torch.int8)
    ways["int8"] = lambda: torch._int_mm(i8, i8.t())  # a product of int8 has no public name in torch
    median_s = {name: spread_s(times)[1] for name, times in seconds_in_turns(ways, device).items()}
    flop_s = {name: 2 * size**3 / taken for name, taken in median_s.items() if name != "copy"}
    return Ceilings(2 * source.numel() * 4 / median_s["copy"], flop_s)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" and torch.cuda.is_available() else device.type
