"""The lattice hidden in a sampled pattern: autocorrelation, reduction, type."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import acos, degrees

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.core.crystal.refraction.symmetries import load_spglib
from toolkit.geometry.types import Lattice

__all__ = ["BravaisLattice", "detect_lattice", "lattice_type", "reduce_plane"]

_SAME_HEIGHT = 0.7  # of the highest peak: a translation that maps the pattern to itself reaches it but for noise
_AGREEING = 0.8  # of the peaks lie on the lattice that was found; those of noise lie anywhere
_FLOOR = 0.25  # correlation: white noise of 32 x 32 samples reaches 0.2 somewhere
_PLANE = ("oblique", "rectangular", "centred rectangular", "square", "hexagonal")
_SYSTEMS = ((2, "triclinic"), (15, "monoclinic"), (74, "orthorhombic"), (142, "tetragonal"), (194, "hexagonal"))


@dataclass(frozen=True)
class BravaisLattice:
    """A lattice that was found.

    Args:
        lattice: Its reduced primitive vectors, in samples.
        kind: "square", "centred rectangular" and so on in the plane; "cubic F", "monoclinic C" and so on in space.
        confidence: The height of the shortest vector's peak over the standard deviation of the autocorrelation.
    """

    lattice: Lattice
    kind: str
    confidence: float


def detect_lattice(pattern: Tensor, *, tolerance: float = 0.03) -> BravaisLattice | None:
    """The primitive lattice of translations that keep a sampled pattern, or None if there is none.

    Peaks of the autocorrelation (unbiased, to lags of half the sample) that are as high as the highest are
    translations. The shortest independent ones are a basis in two and three dimensions; all others then refine it
    by least squares, and None is returned where they do not lie on it.

    Args:
        pattern: [n1, n2] or [n1, n2, n3], real; at least three periods along each axis.
        tolerance: How far lengths and angles may be from those of a more symmetric type, relative.

    Raises:
        GeometryError: another dimension, or values that are not finite.
        MissingDependency: three dimensions without spglib.

    Source: Lagrange and Gauss reduction; Krivy and Gruber 1976 (Niggli); types: International Tables A.
    """
    d = pattern.ndim
    if d not in (2, 3) or pattern.is_complex() or min(pattern.shape) < 8:
        raise GeometryError(
            f"a pattern of {pattern.dtype} {tuple(pattern.shape)}", hint="give 2 or 3 real axes of 8 samples or more"
        )
    correlation = _autocorrelation(require_finite(pattern, "the pattern").double())
    if correlation is None:
        return None
    lags, heights = _peaks(correlation)
    if not len(heights) or float(heights.max()) < _FLOOR:
        return None
    lags = lags[heights >= _SAME_HEIGHT * heights.max()]
    basis = _shortest_basis(lags)
    if basis is None:
        return None
    basis, agreeing = _refine(basis, lags)
    reduced = reduce_plane(basis) if d == 2 else _niggli(basis)
    if reduced is None or agreeing < _AGREEING:
        return None
    found = Lattice(reduced)
    return BravaisLattice(found, lattice_type(found, tolerance=tolerance), float(heights.max() / correlation.std()))


def lattice_type(lattice: Lattice, *, tolerance: float = 0.03) -> str:
    """The Bravais type of a lattice of dimension 2 or 3, by the symmetry it has within `tolerance`.

    Raises:
        GeometryError: another dimension.
        MissingDependency: three dimensions without spglib.
    """
    vectors = lattice.vectors.detach().double()
    if lattice.dim == 2:
        return _plane_type(reduce_plane(vectors), tolerance)
    if lattice.dim != 3:
        raise GeometryError(f"the type of a lattice of dimension {lattice.dim}", hint="dimensions 2 and 3 are known")
    shortest = float(vectors.norm(dim=1).min())
    data = load_spglib().get_symmetry_dataset((vectors.numpy(), [[0.0, 0.0, 0.0]], [1]), tolerance * shortest)
    centring = "C" if data.international[0] in "ABC" else data.international[0]
    system = next((name for last, name in _SYSTEMS if data.number <= last), "cubic")
    return f"{system} {centring}"


def reduce_plane(vectors: Tensor) -> Tensor:
    """The Lagrange-Gauss reduced basis of a plane lattice, [2, 2]: |a| <= |b| and 0 <= a.b <= |a|^2 / 2."""
    a, b = (vectors[0], vectors[1]) if vectors[0].norm() <= vectors[1].norm() else (vectors[1], vectors[0])
    while True:
        b = b - torch.round((a @ b) / (a @ a)) * a
        if b.norm() >= a.norm() * (1 - 1e-12):  # rounding must not swap equal vectors for ever
            return torch.stack([a, -b if float(a @ b) < 0 else b])
        a, b = b, a


def _plane_type(reduced: Tensor, tolerance: float) -> str:
    a, b = reduced
    lengths = float(b.norm() / a.norm()) - 1
    cosine = float(a @ b / (a.norm() * b.norm()))
    right, equal = abs(degrees(acos(cosine)) - 90) < 90 * tolerance, lengths < tolerance
    if right:
        return _PLANE[3] if equal else _PLANE[1]
    if equal and abs(degrees(acos(cosine)) - 60) < 60 * tolerance:
        return _PLANE[4]
    halved = abs(float(a @ b / (a @ a)) - 0.5) < tolerance  # b ends above the middle of a: a centred rectangle
    return _PLANE[2] if equal or halved else _PLANE[0]


def _autocorrelation(pattern: Tensor) -> Tensor | None:
    """At lags from -n/2 to n/2 along each axis, 1 at lag 0, each over the number of its pairs; None if constant."""
    centred = pattern - pattern.mean()
    if float(centred.abs().max()) <= 1e-12 * max(float(pattern.abs().max()), 1e-300):
        return None
    shape = tuple(2 * n for n in pattern.shape)
    axes = tuple(range(pattern.ndim))
    sums = torch.fft.irfftn(torch.fft.rfftn(centred, s=shape).abs().square(), s=shape)
    pairs = torch.fft.irfftn(torch.fft.rfftn(torch.ones_like(centred), s=shape).abs().square(), s=shape)
    unbiased = torch.fft.fftshift(sums / pairs.clamp(min=1), dim=axes)
    for axis, n in enumerate(pattern.shape):
        unbiased = unbiased.narrow(axis, n - n // 2, 2 * (n // 2) + 1)
    value: Tensor | None = unbiased / centred.square().mean()
    return value


def _peaks(correlation: Tensor) -> tuple[Tensor, Tensor]:
    """Lags [P, d] of the local maxima away from 0 and the edge, to fractions of a sample, and heights [P]."""
    d = correlation.ndim
    inner = tuple(slice(1, -1) for _ in range(d))
    centre = correlation[inner]
    highest = torch.ones_like(centre, dtype=torch.bool)
    for shift in product((-1, 0, 1), repeat=d):
        if any(shift):
            beside = correlation[tuple(slice(1 + s, n - 1 + s) for s, n in zip(shift, correlation.shape, strict=True))]
            highest &= centre > beside
    highest &= centre > 0
    at = highest.nonzero()
    middle = torch.tensor([(n - 1) // 2 - 1 for n in correlation.shape])
    at = at[(at - middle).abs().sum(1) > 0]
    offsets, heights = [], centre[tuple(at.T)]
    for axis in range(d):  # the top of the parabola through three samples
        step = torch.zeros(d, dtype=torch.int64)
        step[axis] = 1
        before, after = (correlation[tuple((at + 1 + s * step).T)] for s in (-1, 1))
        offsets.append((before - after) / (2 * (before - 2 * heights + after)))
    return (at - middle).double() + torch.stack(offsets, dim=-1), heights


def _shortest_basis(lags: Tensor) -> Tensor | None:
    """The successive minima among `lags` [P, d]: [d, d], or None if they do not span."""
    basis: list[Tensor] = []
    for lag in lags[lags.norm(dim=1).argsort(stable=True)]:
        flat = torch.stack([*basis, lag])
        volume = torch.linalg.svdvals(flat / flat.norm(dim=1, keepdim=True)).prod()
        if float(volume) > 0.2:  # more than about ten degrees out of the span of the others
            basis.append(lag)
            if len(basis) == lags.shape[1]:
                return torch.stack(basis)
    return None


def _refine(basis: Tensor, lags: Tensor) -> tuple[Tensor, float]:
    """The basis that fits all lags that lie on it best, and how many do: near lags first, so that counts are right."""
    ordered = lags[lags.norm(dim=1).argsort(stable=True)]
    fraction = 0.0
    for share in (0.25, 0.5, 1.0):
        near = ordered[: max(int(share * len(ordered)), 2 * len(basis))]
        counts = torch.linalg.solve(basis.T, near.T).T
        whole = counts.round()
        lying = (counts - whole).abs().amax(1) < 0.2
        fraction = float(lying.double().mean())
        if int(torch.linalg.matrix_rank(whole[lying])) == len(basis):
            basis = torch.linalg.lstsq(whole[lying], near[lying]).solution
    return basis, fraction


def _niggli(basis: Tensor) -> Tensor | None:
    reduced = load_spglib().niggli_reduce(basis.numpy())
    return None if reduced is None else torch.from_numpy(reduced)
