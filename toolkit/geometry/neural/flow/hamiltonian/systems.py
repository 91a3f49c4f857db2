"""Energies on phase space, the motion they cause, and the structure that the motion keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad, vmap

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_positive_definite
from toolkit.geometry.linear import solve
from toolkit.geometry.runtime.recording import Recorded
from toolkit.geometry.types import Field

__all__ = [
    "Hamiltonian",
    "Mechanical",
    "compute_hamiltonian",
    "geodesic_hamiltonian",
    "hamilton_equations",
    "poisson_bracket",
    "symplectic_form",
    "symplectic_matrix",
]

Hamiltonian: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(q [n], p [n]) -> [], the energy of one point of phase space; differentiable. A network will do."""


@dataclass(frozen=True)
class Mechanical:
    """H(q, p) = 1/2 p^T M^-1 p + V(q): separable, so that explicit symplectic steps exist.

    Args:
        potential: V, [n] -> [], differentiable.
        mass: M: [n] (diagonal) or [n, n], positive; None for the unit matrix.
        recorded: Whether the operators of dV/dq are taken down at the first call and replayed: several times as fast
            for a few hundred points. What `toolkit.geometry.runtime.recording` asks of a function, V must keep.
    """

    potential: Field
    mass: Tensor | None = None
    recorded: bool = False

    def __post_init__(self) -> None:
        if self.mass is None:
            return
        if self.mass.ndim == 2:
            require_positive_definite(self.mass, "the mass matrix")
        elif not float(self.mass.min()) > 0:
            raise GeometryError(f"a mass of {float(self.mass.min()):.3g}", hint="masses must be positive")

    def __call__(self, q: Tensor, p: Tensor) -> Tensor:
        return 0.5 * p @ self.velocity(p) + self.potential(q)

    def velocity(self, p: Tensor) -> Tensor:
        """M^-1 p, [*B, n] -> [*B, n]."""
        if self.mass is None:
            return p
        if self.mass.ndim == 1:
            return p / self.mass
        return solve(self.mass, p.reshape(-1, p.shape[-1]).T).T.reshape(p.shape)

    def force(self, q: Tensor) -> Tensor:
        """-dV/dq, [*B, n] -> [*B, n]."""
        if q.ndim == 1:
            force: Tensor = -grad(self.potential)(q)
            return force
        return self._forces(q if q.ndim == 2 else q.flatten(0, -2)).reshape(q.shape)

    @cached_property
    def _forces(self) -> Field:
        """[N, n] -> [N, n]"""

        def forces(q: Tensor) -> Tensor:
            force: Tensor = -vmap(grad(self.potential))(q)
            return force

        return Recorded(forces) if self.recorded else forces


def geodesic_hamiltonian(metric: Field) -> Hamiltonian:
    """H(q, p) = 1/2 g^ij(q) p_i p_j, whose orbits are the geodesics of a metric [n] -> [n, n]."""
    return lambda q, p: 0.5 * p @ solve(metric(q), p[:, None])[:, 0]


def compute_hamiltonian(q: Tensor, p: Tensor, hamiltonian: Hamiltonian) -> Tensor:
    """The energy at points q, p [*B, n] -> [*B], differentiable.

    Raises:
        GeometryError: it is not finite somewhere.
    """
    _require_pair(q, p)
    if q.ndim == 1:
        return require_finite(hamiltonian(q, p), "the energy")
    energy: Tensor = vmap(hamiltonian)(q.reshape(-1, q.shape[-1]), p.reshape(-1, q.shape[-1]))
    return require_finite(energy.reshape(q.shape[:-1]), "the energy")


def hamilton_equations(state: tuple[Tensor, Tensor], hamiltonian: Hamiltonian) -> tuple[Tensor, Tensor]:
    """dq/dt = dH/dp and dp/dt = -dH/dq at q, p [*B, n] -> ([*B, n], [*B, n]), by one gradient.

    Source: Hairer, Lubich & Wanner 2006, "Geometric Numerical Integration", VI.1.
    """
    q, p = state
    _require_pair(q, p)
    slopes = grad(hamiltonian, argnums=(0, 1))
    if q.ndim == 1:
        dq, dp = slopes(q, p)
    else:
        dq, dp = vmap(slopes)(q.reshape(-1, q.shape[-1]), p.reshape(-1, q.shape[-1]))
    return dp.reshape(q.shape), -dq.reshape(q.shape)


def symplectic_matrix(n: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """J = [[0, I], [-I, 0]], [2n, 2n]."""
    j = torch.zeros(2 * n, 2 * n, dtype=dtype)
    j[:n, n:], j[n:, :n] = torch.eye(n, dtype=dtype), -torch.eye(n, dtype=dtype)
    return j


def symplectic_form(vectors: tuple[Tensor, Tensor]) -> Tensor:
    """omega(u, v) = u^T J v of tangent vectors (dq, dp) [*B, 2n] -> [*B].

    Raises:
        GeometryError: phase space has an odd dimension.
    """
    u, v = vectors
    if u.shape[-1] != v.shape[-1] or u.shape[-1] % 2:
        raise GeometryError(
            f"vectors of {u.shape[-1]} and {v.shape[-1]} components", hint="phase space is (q, p) of equal halves"
        )
    (uq, up), (vq, vp) = u.chunk(2, -1), v.chunk(2, -1)
    return (uq * vp).sum(-1) - (up * vq).sum(-1)


def poisson_bracket(f: Field, g: Field) -> Field:
    """{f, g} = grad f^T J grad g as a function [2n] -> [], so that brackets nest.

    Args:
        f, g: Functions of z = (q, p), [2n] -> [].
    """
    return lambda z: symplectic_form((grad(f)(z), grad(g)(z)))


def _require_pair(q: Tensor, p: Tensor) -> None:
    if q.shape != p.shape or not q.ndim:
        raise GeometryError(
            f"positions {tuple(q.shape)} and momenta {tuple(p.shape)} do not pair up", hint="both are [*B, n]"
        )
