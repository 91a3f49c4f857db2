"""Long-run behaviour: of the Markov chain that an attention matrix is, and of maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_stochastic
from toolkit.geometry.linear import solve
from toolkit.geometry.types import Field

__all__ = ["MapReport", "MarkovReport", "birkhoff_average", "ergodic_analysis", "lyapunov_spectrum", "markov_analysis"]


@dataclass(frozen=True)
class MarkovReport:
    """A chain with one recurrent class.

    Args:
        stationary: pi, [N], with pi P = pi.
        spectral_gap: 1 - |lambda_2|; 0 for periodic chains.
        mixing_steps: Steps after which every start is within 1/4 of pi in total variation, a bound for any chain by
            the singular values of P in L2(pi) (Fill 1991); infinite where they say nothing.
        kemeny: sum over i >= 2 of 1 / (1 - lambda_i), the mean steps to a state drawn from pi.
        entropy_rate: -sum_i pi_i sum_j P_ij ln P_ij, nats a step.
    """

    stationary: Tensor
    spectral_gap: float
    mixing_steps: float
    kemeny: float
    entropy_rate: float


@dataclass(frozen=True)
class MapReport:
    """`lyapunov` [n], descending, nats a step; `birkhoff` [n], the mean of the coordinates along orbits."""

    lyapunov: Tensor
    birkhoff: Tensor


def ergodic_analysis(system: Tensor | Field, starts: Tensor | None = None, *,
                     steps: int = 1000) -> MarkovReport | MapReport:  # fmt: skip
    """`markov_analysis` of a row-stochastic matrix, or Lyapunov spectrum and means of a map from `starts` [B, n]."""
    if isinstance(system, Tensor):
        return markov_analysis(system)
    if starts is None:
        raise GeometryError("a map without starting points", hint="pass starts=[B, n]")
    return MapReport(lyapunov_spectrum(system, starts, steps=steps), birkhoff_average(system, starts, steps=steps))


def markov_analysis(attention: Tensor) -> MarkovReport:
    """Stationary law, gap, mixing, Kemeny's constant and entropy rate of P [N, N].

    Raises:
        GeometryError: P is not row-stochastic, or falls apart into several recurrent classes.

    Source: Levin & Peres 2017, "Markov Chains and Mixing Times"; Kemeny & Snell 1960.
    """
    p = require_stochastic(attention)
    if p.ndim != 2:
        raise GeometryError(f"attention {tuple(p.shape)} is no single chain", hint="pass one matrix [N, N]")
    size = len(p)
    eye = torch.eye(size, dtype=p.dtype)
    values = torch.linalg.eigvals(p)
    values = values[(values - 1).abs().argsort()]
    if size > 1 and float((values[1] - 1).abs()) < size * 1e-12:
        raise GeometryError(
            "the chain has several recurrent classes: 1 is an eigenvalue more than once",
            hint="analyse each class, or mix in a little uniform attention",
        )
    # pi (I - P + 1 1^T / N) = 1^T / N has one solution where the recurrent class is one.
    law = solve((eye - p + 1 / size).T, p.new_full((size, 1), 1 / size))[:, 0].clamp(min=0)
    law = law / law.sum()
    kemeny = float((1 / (1 - values[1:])).sum().real)
    rate = -float((law * torch.special.xlogy(p, p).sum(-1)).sum())
    gap = 1 - float(values[1:].abs().max()) if size > 1 else 1.0
    return MarkovReport(law, max(gap, 0.0), _mixing_steps(p, law), kemeny, rate)


def _mixing_steps(p: Tensor, law: Tensor) -> float:
    if len(p) == 1:
        return 0.0
    if float(law.min()) <= 1e-15:  # a transient state: L2(pi) does not see where the chain starts
        return math.inf
    root = law.sqrt()
    second = float(torch.linalg.svdvals(root[:, None] * p / root)[1])
    if second >= 1 - 1e-12:
        return math.inf
    if second <= 1e-15:
        return 1.0
    return max(math.log(2 * math.sqrt(1 / float(law.min()) - 1)) / -math.log(second), 0.0)


def birkhoff_average(step: Field, starts: Tensor, *, steps: int, warmup: int = 100) -> Tensor:
    """The mean of the orbit points of a map [n] -> [n] from `starts` [B, n], over steps and starts: [n]."""
    point, advance = _warm(step, starts, steps, warmup)
    total = torch.zeros_like(point)
    for _ in range(steps):
        total = total + point
        point = advance(point)
    return require_finite(total.mean(0) / steps, "a mean along orbits")


def lyapunov_spectrum(step: Field, starts: Tensor, *, steps: int, warmup: int = 100) -> Tensor:
    """The Lyapunov exponents of a map, averaged over orbits.

    Args:
        step: [n] -> [n], differentiable.
        starts: [B, n].
        steps: That count, after `warmup` that do not.

    Returns:
        [n], descending, nats a step. Their sum is the mean of ln |det Df|.

    Raises:
        GeometryError: an orbit escapes, or a derivative is singular on it.

    Source: Benettin et al. 1980, by QR.
    """
    point, advance = _warm(step, starts, steps, warmup)
    slope = vmap(jacfwd(step))
    frame = torch.eye(starts.shape[1], dtype=starts.dtype).expand(len(starts), -1, -1)
    total = torch.zeros_like(point)
    for _ in range(steps):
        frame, stretch = torch.linalg.qr(slope(point) @ frame)
        total = total + stretch.diagonal(dim1=-2, dim2=-1).abs().log()
        point = advance(point)
    exponents = require_finite(total, "a sum of logarithms of stretches").mean(0) / steps
    return exponents.sort(descending=True).values


def _warm(step: Field, starts: Tensor, steps: int, warmup: int):  # type: ignore[no-untyped-def]
    if starts.ndim != 2 or not len(starts) or steps < 1 or warmup < 0:
        raise GeometryError(f"starts {tuple(starts.shape)}, {steps} steps, {warmup} warm-up", hint="starts are [B, n]")
    advance, point = vmap(step), starts
    for _ in range(warmup):
        point = advance(point)
    return require_finite(point, "an orbit"), advance
