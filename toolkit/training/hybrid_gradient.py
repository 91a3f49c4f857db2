"""The hybrid analytic gradient of the BK core: the published surrogate, how far it is from the gradient, a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from targets.errors import InvalidInput, MissingDependency

__all__ = ["GRID", "Alignment", "BKLayer", "alignment", "by_autograd"]

GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Blends at which the surrogate is looked at."""


@dataclass(frozen=True)
class Alignment:
    """How the surrogate's gradient of a loss with respect to the potentials lies to the true one.

    Args:
        alpha: The blend; None is the exact gradient.
        cosine: Of the angle between the two, over all sites of all chains at once; 1 is the same direction.
        length: |surrogate| / |gradient|.
    """

    alpha: float | None
    cosine: float
    length: float


class BKLayer(nn.Module):
    """Potentials from features, and from them the diagonal of the resolvent: (B, inputs) to (B, 2 chains sites).

    v = x Wᵀ + b in (B · chains, sites), H the chain's Laplacian plus diag(v), the output Re and Im of the diagonal of
    (H − z)⁻¹, sites first. `alpha` None learns W by the exact gradient in O(sites): the default, and what to take. A
    number is the published hybrid of two diagonal guesses,

        dG[i, i] / dv[i] := −(1 − α) G[i, i]² − α / G[i, i]²,   dG[i, i] / dv[j] := 0 for j ≠ i

    of which the first is the true derivative with respect to the site's own potential and the second is none. It is no
    gradient of anything: on random chains of 128 sites at z = 1 + 0.5 i its cosine to the gradient is 0.79 at α = 0,
    0.12 at 0.25 and not above 0.01 from 0.5 on, and it is up to 10 times as long (`alignment`). Blending hurts: on
    digits it wants 1.9 times the samples at α = 0.25 and 2.3 at 1, where 4 of 10 seeds do not get there, as 7 do not at
    0.5 (`toolkit.bench.training_cost` hybrid_gradient), and is off by default. α = 0, which leaves out the other sites,
    wants 1.1 times the samples and half the time on a CPU, as it has no recursion to go back through.

    Args:
        inputs, chains, sites: Sizes, 1 at least.
        z: The energy; Im z > 0.
        alpha: None, or the blend in [0, 1].
        seed: Of W; b is 0.

    Raises:
        InvalidInput: a size, z or alpha is out of range; in `forward`, x is empty or of another shape.
        MissingDependency: the package `kernels` is not there.

    Source: kernels/bk_core (values and the exact gradient, Godfrin 1991); the blend is that of the ResNet-BK designs.
    """

    def __init__(
        self, inputs: int, chains: int, sites: int, *, z: complex = 1 + 0.5j, alpha: float | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if min(inputs, chains, sites) < 1 or not complex(z).imag > 0:
            raise InvalidInput(
                f"no chain: {inputs} inputs, {chains} chains of {sites} sites, z = {z}",
                hint="sizes from 1, and a z with a positive imaginary part",
            )
        self.chains, self.sites, self.z = chains, sites, complex(z)
        self.alpha = None if alpha is None else _alpha(alpha)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.potential = nn.Linear(inputs, chains * sites)
        nn.init.zeros_(self.potential.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 · chains · sites) of x (B, inputs)."""
        if x.ndim != 2 or x.shape[1] != self.potential.in_features or not len(x):
            raise InvalidInput(
                f"the layer takes (samples, {self.potential.in_features}), not {tuple(x.shape)}",
                hint="flatten samples, and give one at least",
            )
        v = self.potential(x).reshape(-1, self.sites)
        features: Tensor = _bk_features()(v, z=self.z, blend=self.alpha)
        return features.reshape(len(x), -1)


def alignment(
    v: Tensor, weights: Tensor, *, z: complex = 1 + 0.5j, alphas: Sequence[float] = GRID
) -> tuple[Alignment, ...]:
    """Hold the surrogate at each blend against the gradient of L = Σ weights · features(v).

    Args:
        v: (chains, sites) float32 or float64, finite.
        weights: (chains, sites, 2): what comes from behind the layer, dL/dRe G and dL/dIm G.
        z: The energy; Im z > 0.
        alphas: In [0, 1].

    Returns:
        One for each blend, in their order.

    Raises:
        InvalidInput: shapes do not fit, something is empty or not finite, a blend is out of range.
    """
    if v.ndim != 2 or not v.numel() or weights.shape != (*v.shape, 2):
        raise InvalidInput(
            f"v {tuple(v.shape)} and weights {tuple(weights.shape)} do not fit",
            hint="give (chains, sites) and (chains, sites, 2), one site at least",
        )
    if not bool(torch.isfinite(v).all() and torch.isfinite(weights).all()):
        raise InvalidInput("v or weights hold NaN or infinity", hint="clean them")
    truth = _gradient(v, weights, z, None)
    return tuple(_aligned(alpha, _gradient(v, weights, z, _alpha(alpha)), truth) for alpha in alphas)


def by_autograd(v: Tensor, *, z: complex) -> Tensor:
    """(batch, sites, 2): the features with every operation of the recursions known to autograd, as a peer.

    What the analytic gradient saves: the same numbers, and a graph of O(sites) nodes that backward walks. Values and
    gradient of 64 chains in float32 take, by autograd over analytically, on an H100 14 times as long with 32 sites, 51
    with 128, 760 with 2048; on one core 1.7, 3.2 and 12 times. The training of `hybrid_gradient` in the ledger, 128
    sites, takes 30 times as long on the H100 (five of its 15 epochs; 95 % interval 27 to 32, 5 seeds) and 3.1 on a core
    (2.9 to 3.3, 10 seeds).

    Source: the recursions of kernels/bk_core/README.md, site after site.
    """
    d = torch.complex(v + (2 - z.real), torch.full_like(v, -z.imag)).unbind(1)
    left, right = [torch.zeros_like(d[0])], [torch.zeros_like(d[0])]
    for site in d[:-1]:
        left.append(1 / (site - left[-1]))
    for site in d[:0:-1]:
        right.append(1 / (site - right[-1]))
    green = [1 / (site - a - b) for site, a, b in zip(d, left, reversed(right), strict=True)]
    return torch.view_as_real(torch.stack(green, 1))


def _gradient(v: Tensor, weights: Tensor, z: complex, alpha: float | None) -> Tensor:
    leaf = v.detach().clone().requires_grad_()
    loss = (_bk_features()(leaf, z=z, blend=alpha) * weights.detach()).sum()
    return torch.autograd.grad(loss, leaf)[0].double().flatten()


def _aligned(alpha: float, found: Tensor, truth: Tensor) -> Alignment:
    return Alignment(alpha, float(torch.cosine_similarity(found, truth, 0)), float(found.norm() / truth.norm()))


def _alpha(alpha: float) -> float:
    if not 0 <= alpha <= 1:
        raise InvalidInput(f"blend {alpha} lies outside 0 to 1", hint="0 is -G^2 alone, 1 is -1/G^2 alone")
    return float(alpha)


def _bk_features() -> Callable[..., Any]:
    try:
        from kernels.bk_core import bk_features
    except ImportError as error:
        raise MissingDependency(
            "the BK core's kernels are not there, or another package is called `kernels`",
            hint="see `toolkit doctor`, and install edge-toolkit into an environment of its own",
        ) from error
    return bk_features
