"""Do small disturbances of a state grow, and at which wavelength?"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.neural.attention.pattern_dynamics.diffusion import diffuse, largest_diffusivity
from toolkit.geometry.neural.attention.pattern_dynamics.reactions import Reaction
from toolkit.rng import numpy_generator

__all__ = ["Stability", "TuringThreshold", "pattern_growth", "stability_analysis", "turing_threshold"]


@dataclass(frozen=True)
class Stability:
    """How disturbances exp(i k x + sigma t) of a homogeneous state behave.

    Args:
        growth_rate: The largest real part of sigma over the given wave numbers, in one over time.
        critical_wavenumber: Where it is reached.
        eigenvector: Complex [C], what the fastest disturbance is made of.
        wavenumbers: [K].
        dispersion: [K], the largest real part of sigma at each.
    """

    growth_rate: float
    critical_wavenumber: float
    eigenvector: Tensor
    wavenumbers: Tensor
    dispersion: Tensor


class TuringThreshold(NamedTuple):
    """Where two species with D = (1, d) lose stability to a pattern: the ratio d, and k_c^2 at D_u = 1."""

    ratio: float
    wavenumber_squared: float


def stability_analysis(state: Tensor, diffusivity: Tensor, reaction: Reaction, wavenumbers: Tensor) -> Stability:
    """sigma(k) = max Re eig(J - k^2 D) around a homogeneous state at rest; the dispersion is differentiable.

    Args:
        state: u [C] with R(u) = 0.
        diffusivity: [C] or [C, C].
        reaction: [C] -> [C]; its Jacobian is taken by autograd.
        wavenumbers: [K].

    Raises:
        GeometryError: the state is not at rest, or shapes that do not fit.

    Source: Murray 2003, Mathematical Biology II, section 2.3; Cross and Hohenberg 1993, Rev. Mod. Phys. 65, 851.
    """
    if state.ndim != 1 or wavenumbers.ndim != 1 or not len(wavenumbers) or diffusivity.ndim > 2:
        raise GeometryError(
            f"a state {tuple(state.shape)}, D {tuple(diffusivity.shape)}, wave numbers {tuple(wavenumbers.shape)}",
            hint="give [C], [C] or [C, C], and [K]; patterns take `pattern_growth`",
        )
    require_finite(wavenumbers, "a wave number")
    largest_diffusivity(diffusivity, len(state))
    jacobian = torch.func.jacrev(reaction)(state)
    rest = float(reaction(state).detach().norm())
    if rest > 1e-8 * (1 + float(jacobian.detach().norm()) * float(state.detach().norm())):
        raise GeometryError(f"the reaction moves the state at {rest:.3g}", hint="linearise at a state of rest")
    require_finite(jacobian, "the Jacobian of the reaction")
    d = torch.diag(diffusivity) if diffusivity.ndim == 1 else diffusivity
    values, vectors = torch.linalg.eig(jacobian - wavenumbers.square()[:, None, None] * d)
    fastest = values.real.argmax(-1)
    dispersion = values.real.gather(-1, fastest.unsqueeze(-1)).squeeze(-1)
    at = int(dispersion.detach().argmax())
    return Stability(
        float(dispersion[at].detach()), float(wavenumbers[at]), vectors[at, :, fastest[at]], wavenumbers, dispersion
    )


def turing_threshold(jacobian: Tensor) -> TuringThreshold:
    """The ratio d of D = (1, d) at which a pattern first grows, (f_u d + g_v)^2 = 4 d det J.

    Args:
        jacobian: J [2, 2] of the reaction at rest, stable without diffusion, activator first: f_u > 0.

    Raises:
        GeometryError: without diffusion the state is unstable, or the first species is no activator.

    Source: Turing 1952; Murray 2003, section 2.3.
    """
    if tuple(jacobian.shape) != (2, 2):
        raise GeometryError(f"a Jacobian of shape {tuple(jacobian.shape)}", hint="the threshold is one of two species")
    fu, gv = float(jacobian[0, 0]), float(jacobian[1, 1])
    trace, det = fu + gv, float(torch.linalg.det(jacobian.detach()))
    if not (trace < 0 < det and fu > 0 > gv):
        raise GeometryError(
            f"trace {trace:.3g}, determinant {det:.3g}, f_u {fu:.3g}",
            hint="a Turing pattern needs trace < 0 < determinant and an activator f_u > 0 first",
        )
    half = 2 * det - fu * gv
    ratio = (half + sqrt(half**2 - (fu * gv) ** 2)) / fu**2
    return TuringThreshold(ratio, sqrt(det / ratio))


def pattern_growth(
    pattern: Tensor, diffusivity: Tensor, reaction: Reaction, *, spacing: float = 1.0, count: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The fastest disturbances of any pattern, by Arnoldi iteration on directional derivatives: no matrix is formed.

    A pattern on a torus can be shifted: two rates of about 0 belong to that.

    Args:
        pattern: [C, H, W], at rest.
        diffusivity: As of `reaction_diffusion`; second differences are used.
        reaction: [C, H, W] -> the same.
        spacing: Between samples.
        count: How many.
        seed: Of the first vector of the iteration.

    Returns:
        (rates, modes): complex [count], largest real part first, and complex [count, C, H, W].

    Raises:
        GeometryError: shapes that do not fit, or an iteration that does not converge.

    Source: Arnoldi 1951; Lehoucq, Sorensen and Yang 1998 (ARPACK).
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigs

    if pattern.ndim != 3 or not 1 <= count < pattern.numel() - 1:
        raise GeometryError(
            f"{count} modes of a pattern of shape {tuple(pattern.shape)}", hint="give [C, H, W] and fewer modes"
        )
    largest_diffusivity(diffusivity, pattern.shape[0])
    base = require_finite(pattern.detach().double(), "the pattern").clone()  # an expanded state is one for all

    def rates(u: Tensor) -> Tensor:
        return diffuse(u, diffusivity.double(), spacing) + reaction(u)

    def derivative(v: Any) -> Any:
        direction = torch.from_numpy(v.reshape(tuple(base.shape)).real.copy())
        return torch.func.jvp(rates, (base,), (direction,))[1].flatten().numpy()

    require_finite(rates(base), "the rate of the pattern")
    n = base.numel()
    operator = LinearOperator((n, n), matvec=derivative, dtype=float)
    start = numpy_generator(seed, "arnoldi").normal(size=n)
    try:
        values, modes = eigs(operator, k=count, which="LR", v0=start, ncv=min(n - 1, max(4 * count + 1, 40)))
    except ArpackError as error:
        raise GeometryError(
            f"Arnoldi's iteration did not converge: {error}", hint="take a smaller grid or more modes"
        ) from error
    order = (-values.real).argsort(kind="stable")
    found = torch.from_numpy(values[order].copy())
    return found, torch.from_numpy(modes.T[order].copy()).reshape(len(order), *base.shape)
