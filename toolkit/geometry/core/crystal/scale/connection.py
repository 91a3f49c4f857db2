"""From a fine scale to a coarse one and back."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Literal, get_args

import torch
from torch import Tensor

from toolkit.errors import GeometryError, UnknownName
from toolkit.geometry.checking import require_finite, require_stochastic

__all__ = ["ScaleConnection", "Window", "gaussian_smooth", "scale_connection"]

Window = Literal["block", "gaussian"]


@dataclass(frozen=True)
class ScaleConnection:
    """A restriction R and a prolongation E with R E = 1.

    Args:
        restriction: R [coarse, fine], rows sum to 1.
        prolongation: E [fine, coarse].
    """

    restriction: Tensor
    prolongation: Tensor

    def coarsen(self, attention: Tensor) -> Tensor:
        """R P E for row-stochastic P [*B, fine, fine] -> [*B, coarse, coarse], row-stochastic for block means.

        Raises:
            GeometryError: P is not row-stochastic, or of another size.
        """
        fine = self.restriction.shape[1]
        if attention.ndim < 2 or tuple(attention.shape[-2:]) != (fine, fine):
            raise GeometryError(f"attention of shape {tuple(attention.shape)}", hint=f"give [*B, {fine}, {fine}]")
        require_stochastic(attention)
        return self.restriction.to(attention.dtype) @ attention @ self.prolongation.to(attention.dtype)


def scale_connection(fine: int, coarse: int, window: Window = "block") -> ScaleConnection:
    """Between `fine` samples and `coarse` ones.

    block      means over blocks of fine / coarse samples, and their constant continuation. Flat: going through a
               scale between changes nothing. Attention stays row-stochastic.
    gaussian   means under a window of the width of a block, on a ring, and the right inverse of the least norm;
               smoother, neither flat nor positive.

    Raises:
        GeometryError: `coarse` does not divide `fine`.
        UnknownName: there is no such window.
    """
    if window not in get_args(Window):
        raise UnknownName("window", window, get_args(Window))
    if coarse < 1 or fine < 1 or fine % coarse:
        raise GeometryError(f"{fine} samples in {coarse} blocks", hint="the coarse size must divide the fine one")
    size = fine // coarse
    identity = torch.eye(coarse, dtype=torch.float64)
    if window == "block":
        spread = identity.repeat_interleave(size, dim=0)
        return ScaleConnection(spread.T / size, spread)
    centres = size * torch.arange(coarse, dtype=torch.float64) + (size - 1) / 2
    away = (torch.arange(fine, dtype=torch.float64) - centres.unsqueeze(1)).abs()
    around = torch.minimum(away, fine - away)
    weights = torch.exp(-around.square() / (2 * (size / 2) ** 2))
    restriction = weights / weights.sum(1, keepdim=True)
    return ScaleConnection(restriction, torch.linalg.pinv(restriction))


def gaussian_smooth(values: Tensor, variance: float) -> Tensor:
    """The Gaussian scale space of a periodic signal [*B, n] at a variance in samples squared; differentiable.

    Multiplication by exp(-k^2 variance / 2), so smoothing by s and then by t is smoothing by s + t to rounding.

    Raises:
        GeometryError: the variance is negative.

    Source: Lindeberg 1994, Scale-Space Theory in Computer Vision.
    """
    if not variance >= 0:
        raise GeometryError(f"the variance {variance}", hint="smoothing cannot be undone: variances are >= 0")
    require_finite(values, "the signal")
    n = values.shape[-1]
    k = 2 * pi * torch.fft.rfftfreq(n, dtype=values.dtype)
    smooth: Tensor = torch.fft.irfft(torch.fft.rfft(values) * torch.exp(-k.square() * variance / 2), n=n)
    return smooth
