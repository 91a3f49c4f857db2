"""Real time on a periodic grid: half a kick, a drift in momentum space, half a kick."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, pi

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import GridField

__all__ = ["split_operator"]


def split_operator(
    wave: GridField,
    heights: Callable[[Tensor], Tensor],
    mass: float,
    hbar: float,
    time: float,
    steps: int,
    dimension: int,
) -> GridField:
    """`wave` after `time`; see `PathIntegral.evolve`. Unitary for any number of steps."""
    shape = tuple(wave.values.shape)
    if (
        len(shape) != dimension
        or len(wave.spacing) != dimension
        or not all(wave.periodic)
        or steps < 1
        or not isfinite(time)
    ):
        raise GeometryError(
            f"{steps} steps over {time} of a wave of shape {shape}, periodic {wave.periodic}, in dimension {dimension}",
            hint="give a finite time, at least one step, and a periodic grid with one axis for each coordinate",
        )
    if not wave.values.is_complex():
        raise GeometryError(f"a wave function of {wave.values.dtype}", hint="use .to(torch.complex128)")
    require_finite(wave.values, "the wave function")
    real = wave.values.real.dtype
    axes = [(torch.arange(n, dtype=real) - n // 2) * h for n, h in zip(shape, wave.spacing, strict=True)]
    waves = [2 * pi * torch.fft.fftfreq(n, h, dtype=real) for n, h in zip(shape, wave.spacing, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    k2 = torch.stack(torch.meshgrid(*waves, indexing="ij"), dim=-1).square().sum(-1)
    dt = time / steps
    half = torch.exp(-0.5j * dt / hbar * heights(points))
    drift = torch.exp(-0.5j * hbar * dt / mass * k2)
    values = wave.values
    for _ in range(steps):
        values = half * torch.fft.ifftn(drift * torch.fft.fftn(half * values))
    return GridField(values, wave.spacing, wave.periodic)
