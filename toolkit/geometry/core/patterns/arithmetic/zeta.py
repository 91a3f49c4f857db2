"""Zeta and L-functions: of Dirichlet characters, of graphs, of subshifts."""

from __future__ import annotations

import cmath
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from toolkit.errors import GeometryError, MissingDependency
from toolkit.geometry.checking import require_finite, require_square

__all__ = ["artin_mazur_reciprocal", "dirichlet_l", "ihara_reciprocal", "l_function"]


def l_function(kind: Literal["dirichlet", "ihara", "artin_mazur"], data: Sequence[int] | Tensor,
               s: complex) -> complex:  # fmt: skip
    """An L- or zeta value: `dirichlet_l` of a character, or one over the reciprocal zeta of a matrix.

    Raises:
        GeometryError: s is a pole, or the data are of no such kind.
    """
    if kind == "dirichlet" and not isinstance(data, Tensor):
        return dirichlet_l(data, s)
    if kind not in ("ihara", "artin_mazur") or not isinstance(data, Tensor):
        raise GeometryError(
            f"{kind!r} of a {type(data).__name__}", hint="a list for 'dirichlet', a matrix for the others"
        )
    point = torch.tensor(s, dtype=torch.complex128)
    reciprocal = {"ihara": ihara_reciprocal, "artin_mazur": artin_mazur_reciprocal}[kind]
    value = complex(reciprocal(data.to(torch.complex128), point))
    if abs(value) < 1e-14:
        raise GeometryError(f"{kind} has a pole at {s}", hint="evaluate elsewhere, or use the reciprocal")
    return 1 / value


def dirichlet_l(character: Sequence[int], s: complex) -> complex:
    """L(s, chi) of a character given by its values chi(0), ..., chi(m - 1), to double precision.

    Raises:
        GeometryError: the values are no character modulo m; or s = 1 with the trivial one, a pole.
        MissingDependency: mpmath is not installed.

    Source: Apostol 1976, chapter 12, through Hurwitz zeta functions.
    """
    try:
        import mpmath  # type: ignore[import-untyped]
    except ImportError as error:  # pragma: no cover - torch brings it today
        raise MissingDependency("Dirichlet L-functions need mpmath", hint="pip install mpmath") from error
    m = len(character)
    multiplies = all(character[a * b % m] == character[a] * character[b] for a in range(m) for b in range(m))
    if not m or not multiplies or character[1 % m] != 1 or (m > 1 and character[0] != 0):
        raise GeometryError(f"{list(character)} is no character modulo {m}", hint="values chi(0) to chi(m - 1)")
    if not cmath.isfinite(s):
        raise GeometryError(f"an L-function at {s}", hint="s is a finite complex number")
    if s == 1 and all(c in (0, 1) for c in character):
        raise GeometryError("the trivial character has a pole at 1", hint="evaluate elsewhere")
    return complex(mpmath.dirichlet(mpmath.mpc(s), list(character)))


def ihara_reciprocal(adjacency: Tensor, u: Tensor) -> Tensor:
    """1 / zeta(u) = (1 - u^2)^(E - V) det(I - A u + (D - I) u^2) of a graph; differentiable.

    Args:
        adjacency: A, [N, N], symmetric, entries 0 or 1, zero diagonal.
        u: [*B], real or complex.

    Returns:
        [*B], a polynomial of degree 2E in u: the product over prime closed walks of 1 - u^length.

    Raises:
        GeometryError: A is no such matrix, or u = 1 or -1 on a forest, where the formula is 0/0.

    Source: Bass 1992; Terras 2011, "Zeta Functions of Graphs".
    """
    require_square(adjacency, "the adjacency matrix")
    simple = (adjacency == adjacency.T) & ((adjacency == 0) | (adjacency == 1))
    if not bool(simple.all()) or bool(adjacency.diagonal().any()):
        raise GeometryError("the matrix is no simple graph", hint="symmetric, entries 0 or 1, zero diagonal")
    eye = torch.eye(len(adjacency), dtype=adjacency.dtype)
    degrees = adjacency.sum(1)
    point = u[..., None, None]
    excess = int(degrees.sum().real) // 2 - len(adjacency)
    inside: Tensor = torch.linalg.det(eye - adjacency * point + (torch.diag(degrees) - eye) * point.square())
    return require_finite((1 - u.square()) ** excess * inside, "the reciprocal zeta")


def artin_mazur_reciprocal(matrix: Tensor, z: Tensor) -> Tensor:
    """1 / zeta(z) = det(I - z A) of a transition matrix A [N, N] at z [*B] -> [*B]; differentiable.

    zeta counts the closed walks, or for a subshift the periodic points: zeta = exp(sum_n tr(A^n) z^n / n).
    Source: Bowen & Lanford 1970.
    """
    require_square(matrix, "the transition matrix")
    value: Tensor = torch.linalg.det(torch.eye(len(matrix), dtype=matrix.dtype) - z[..., None, None] * matrix)
    return require_finite(value, "the reciprocal zeta")
