"""Functions on simplices: the signed coboundary, the cup product, and the inner products of a triangle mesh."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import SimplicialComplex

__all__ = ["coboundary", "cup_product", "dec_masses", "exterior_derivative", "positions_of", "require_cochain"]


def require_cochain(complex_: SimplicialComplex, form: Tensor, k: int) -> Tensor:
    """`form` as it is, [*B, n_k].

    Raises:
        GeometryError: it has another length, a value that is not finite, or there are no k-simplices.
    """
    if not form.ndim or form.shape[-1] != complex_.count(k) or not complex_.count(k):
        raise GeometryError(
            f"a {k}-form of shape {tuple(form.shape)} on a complex with {complex_.count(k)} {k}-simplices",
            hint="the last axis holds one number for each simplex, in the order of `simplices[k]`",
        )
    return require_finite(form, f"a {k}-form")


def positions_of(complex_: SimplicialComplex, simplices: Tensor) -> Tensor:
    """Where rows of vertices [m, k+1], ascending, stand in `simplices[k]`, [m] int64.

    Raises:
        GeometryError: a row is no simplex of the complex.
    """
    block = complex_.simplices[simplices.shape[1] - 1] if simplices.shape[1] <= complex_.dim + 1 else simplices[:0]
    where = {row: index for index, row in enumerate(map(tuple, block.tolist()))}
    rows = [tuple(row) for row in simplices.tolist()]
    if missing := [row for row in rows if row not in where]:
        raise GeometryError(f"{missing[0]} is no simplex of the complex", hint="vertices ascend; see `simplices`")
    return torch.tensor([where[row] for row in rows], dtype=torch.int64)


def _faces(complex_: SimplicialComplex, k: int) -> Tensor:
    """For each (k+1)-simplex the positions of its faces, [n_(k+1), k+2]; face i leaves vertex i out."""
    upper = complex_.simplices[k + 1]
    keep = [[v for v in range(k + 2) if v != i] for i in range(k + 2)]
    return torch.stack([positions_of(complex_, upper[:, vertices]) for vertices in keep], dim=1)


def coboundary(complex_: SimplicialComplex, k: int) -> csr_array:
    """d_k, as scipy's CSR of int64 [n_(k+1), n_k] with entries +1 and -1; d_(k+1) d_k = 0 exactly.

    Outside 0 <= k < dim it is an empty matrix of the shape that fits.
    """
    shape = (complex_.count(k + 1), complex_.count(k))
    if not all(shape):
        return csr_array(shape, dtype=np.int64)
    faces = _faces(complex_, k).numpy()
    signs = np.tile((-1) ** np.arange(k + 2), len(faces))
    return csr_array((signs, faces.ravel(), np.arange(0, faces.size + 1, k + 2)), shape=shape)


def exterior_derivative(complex_: SimplicialComplex, form: Tensor, k: int) -> Tensor:
    """d of a k-form [*B, n_k] -> [*B, n_(k+1)], exact for integers, differentiable for floats.

    (d form)[v_0 ... v_(k+1)] = sum_i (-1)^i form[v_0 ... without v_i ... v_(k+1)].

    Raises:
        GeometryError: the form does not fit.

    Source: Hatcher 2002, "Algebraic Topology", 3.1.
    """
    require_cochain(complex_, form, k)
    if not complex_.count(k + 1):
        return form[..., :0]
    signs = torch.tensor([(-1) ** i for i in range(k + 2)], dtype=form.dtype)
    return (form[..., _faces(complex_, k)] * signs).sum(-1)


def cup_product(complex_: SimplicialComplex, a: Tensor, b: Tensor, degrees: tuple[int, int]) -> Tensor:
    """(a u b)[v_0 ... v_(p+q)] = a[v_0 ... v_p] b[v_p ... v_(p+q)].

    Args:
        a, b: [*B, n_p] and [*B, n_q].
        degrees: (p, q).

    Returns:
        [*B, n_(p+q)]. Obeys d(a u b) = da u b + (-1)^p a u db; graded commutative on classes, not on cochains.

    Raises:
        GeometryError: a form does not fit.

    Source: Hatcher 2002, 3.2.
    """
    p, q = degrees
    require_cochain(complex_, a, p)
    require_cochain(complex_, b, q)
    if not complex_.count(p + q):
        return (a[..., :1] * b[..., :1])[..., :0]
    block = complex_.simplices[p + q]
    front, back = positions_of(complex_, block[:, : p + 1]), positions_of(complex_, block[:, p:])
    return a[..., front] * b[..., back]


def dec_masses(complex_: SimplicialComplex, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The diagonal Hodge stars of a triangle mesh, the inner products of its 0-, 1- and 2-forms.

    Args:
        points: [V, 2 or 3], where vertex v stands.

    Returns:
        A third of the areas round a vertex [n_0]; half the cotangents facing an edge [n_1]; one over the area [n_2].

    Raises:
        GeometryError: the complex is no surface, a triangle is flat, or the cotangents of an edge sum to nothing or
            less (the mesh is not Delaunay there).

    Source: Hirani 2003, "Discrete Exterior Calculus"; Pinkall & Polthier 1993 for the cotangents.
    """
    if complex_.dim != 2:
        raise GeometryError(f"a complex of dimension {complex_.dim} as a mesh", hint="give a complex of triangles")
    triangles = complex_.simplices[2]
    corners = points[triangles]
    sides = corners.roll(-1, 1) - corners  # side i runs from corner i to corner i + 1
    first, second = sides[:, 0], sides[:, 1]
    areas = (_dot(first, first) * _dot(second, second) - _dot(first, second) ** 2).clamp(min=0).sqrt() / 2
    if not float(areas.min()) > 0:
        raise GeometryError(f"a triangle has the area {float(areas.min()):.3g}", hint="move its vertices apart")
    vertex, edge = points.new_zeros(complex_.count(0)), points.new_zeros(complex_.count(1))
    vertex_at = positions_of(complex_, triangles.reshape(-1, 1))
    vertex = vertex.index_add(0, vertex_at, (areas / 3).repeat_interleave(3))
    for i in range(3):
        cotangent = -_dot(sides[:, i], sides[:, (i + 2) % 3]) / (2 * areas)
        facing = triangles[:, sorted({0, 1, 2} - {i})]
        edge = edge.index_add(0, positions_of(complex_, facing), cotangent / 2)
    if not float(edge.min()) > 0:
        raise GeometryError(
            f"the star of an edge is {float(edge.min()):.3g}", hint="use a Delaunay mesh, or the unweighted forms"
        )
    return vertex, edge, 1 / areas


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)
