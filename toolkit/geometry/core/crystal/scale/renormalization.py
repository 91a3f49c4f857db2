"""How couplings change with scale."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Literal

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import Field

__all__ = [
    "RGFlow",
    "block_spins",
    "empirical_coupling",
    "ising_chain",
    "ising_correlation_length",
    "migdal_kadanoff",
    "renormalization_flow",
    "wilson_fisher_beta",
]


@dataclass(frozen=True)
class RGFlow:
    """A coupling map and where it went.

    Args:
        map: Couplings [n] at one scale to couplings [n] at the next, b times coarser.
        trajectory: [K + 1, n], the start and K images.
        scale: b > 1.
    """

    map: Field
    trajectory: Tensor
    scale: float


def renormalization_flow(coupling_map: Field, start: Tensor, *, steps: int = 10, scale: float = 2.0) -> RGFlow:
    """Iterate `coupling_map` from `start` [n].

    Raises:
        GeometryError: no step, b <= 1, or couplings that are not finite after some step.

    Source: Goldenfeld 1992, Lectures on Phase Transitions, chapter 9.
    """
    if steps < 1 or not scale > 1 or start.ndim != 1:
        raise GeometryError(
            f"{steps} steps of scale {scale} from couplings of shape {tuple(start.shape)}",
            hint="at least one step, b > 1, couplings [n]",
        )
    points = [require_finite(start, "the couplings")]
    for step in range(steps):
        points.append(require_finite(coupling_map(points[-1]), f"the couplings after step {step + 1}"))
    return RGFlow(coupling_map, torch.stack(points), scale)


def ising_chain(k: Tensor) -> Tensor:
    """Decimation of the Ising chain by 2: tanh K' = tanh^2 K, exact. [*B] -> [*B]."""
    return torch.tanh(k).square().atanh()


def ising_correlation_length(k: Tensor) -> Tensor:
    """xi = -1 / ln tanh K of the Ising chain, in sites, for K > 0; [*B] -> [*B]. Decimation halves it.

    Raises:
        GeometryError: a coupling is not positive.
    """
    if not bool((k > 0).all()):
        raise GeometryError(f"the coupling {float(k.min()):.6g}", hint="the correlation length wants K > 0")
    return -1 / torch.tanh(k).log()


def migdal_kadanoff(order: Literal["bonds", "decimate"] = "bonds") -> Field:
    """The square lattice's Ising coupling under Migdal's and Kadanoff's approximation, b = 2.

    "bonds" first moves bonds and then decimates, K' = 1/2 ln cosh 4K; "decimate" the other way round, K' = ln cosh 2K.
    Both have the same slope at the fixed point; the exact critical coupling is ln(1 + sqrt 2) / 2 = 0.4407.

    Source: Migdal 1975; Kadanoff 1976, Ann. Phys. 100, 359.
    """
    if order == "bonds":
        return lambda k: _ln_cosh(4 * k) / 2
    return lambda k: _ln_cosh(2 * k)


def wilson_fisher_beta(epsilon: float) -> Field:
    """beta(u) = -epsilon u + 3 u^2 / (16 pi^2), one loop, for the interaction u phi^4 / 4! in 4 - epsilon dimensions.

    Towards short distances. Its zero u* = 16 pi^2 epsilon / 3 has the slope +epsilon; there 1 / nu = 2 - epsilon / 3.

    Source: Wilson and Fisher 1972, Phys. Rev. Lett. 28, 240.
    """
    return lambda u: -epsilon * u + 3 * u.square() / (16 * pi**2)


def block_spins(spins: Tensor, size: int, rule: Literal["majority", "decimate"] = "decimate") -> Tensor:
    """Coarser spins from +1 and -1: [*B, n] -> [*B, n / size], or [*B, n, m] by calling it along each axis.

    "decimate" keeps the first spin of each block, "majority" takes the sign of the sum, for an odd size.

    Raises:
        GeometryError: values other than +1 and -1, blocks that do not fit, or a majority of an even number.
    """
    if not bool((spins.abs() == 1).all()):
        raise GeometryError(f"the spin {float(spins.flatten()[spins.flatten().abs() != 1][0]):.6g}", hint="+1 or -1")
    if size < 1 or spins.shape[-1] % size or (rule == "majority" and size % 2 == 0):
        raise GeometryError(
            f"{spins.shape[-1]} spins in blocks of {size} by {rule}", hint="blocks must fit, and be odd for a majority"
        )
    blocks = spins.unflatten(-1, (-1, size))  # type: ignore[no-untyped-call]
    value: Tensor = blocks[..., 0] if rule == "decimate" else blocks.sum(-1).sign()
    return value


def empirical_coupling(spins: Tensor) -> tuple[float, float]:
    """The coupling K of an Ising chain that fits samples [B, n] with free ends best, and its standard error.

    artanh of the mean product of neighbours, the maximum of the likelihood; bonds of such a chain are independent.

    Raises:
        GeometryError: neighbours are always equal or always opposite, so that K is infinite, or there is no bond.
    """
    if spins.ndim != 2 or spins.shape[1] < 2:
        raise GeometryError(f"samples of shape {tuple(spins.shape)}", hint="give [B, n] with n >= 2")
    products = (spins[:, 1:] * spins[:, :-1]).double()
    mean = float(products.mean())
    if not abs(mean) < 1:
        raise GeometryError(f"neighbours have the mean product {mean:g}", hint="take more samples, or a smaller K")
    error = float(((1 - mean**2) / products.numel()) ** 0.5) / (1 - mean**2)
    return float(torch.tensor(mean, dtype=torch.float64).atanh()), error


def _ln_cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - torch.log(torch.tensor(2.0, dtype=x.dtype))
