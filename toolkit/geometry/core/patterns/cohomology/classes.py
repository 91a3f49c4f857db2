"""Cohomology of a complex over the reals or modulo a prime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import eigsh
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_prime
from toolkit.geometry.core.patterns.cohomology import cochains
from toolkit.geometry.core.patterns.cohomology.elimination import kernel_modulo, pivots_modulo
from toolkit.geometry.types import SimplicialComplex
from toolkit.rng import numpy_generator

__all__ = ["CochainSpace", "Coefficients", "SimplicialCohomology"]

Coefficients: TypeAlias = Literal["R"] | int
"""Real numbers, or the integers modulo this prime."""

_DENSE_SIMPLICES = 2000
_SHIFT = -1e-3  # below the spectrum, so that L_k - shift is positive, and near 0, which it makes converge fast


@dataclass(frozen=True)
class CochainSpace:
    """The k-forms: one number for each simplex. `basis()` is dual to `simplices`; `mass` [n_k] is the inner product."""

    degree: int
    simplices: Tensor
    mass: Tensor

    @property
    def dim(self) -> int:
        """n_k."""
        return len(self.simplices)

    def basis(self) -> Tensor:
        """[n_k, n_k], a row for each form that is 1 on one simplex."""
        return torch.eye(self.dim, dtype=self.mass.dtype)

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """sum_s mass_s a_s b_s of forms [*B, n_k] -> [*B]."""
        return (a * b * self.mass).sum(-1)


@dataclass(frozen=True)
class SimplicialCohomology:
    """Forms on a complex and the classes of closed ones. Source: Hatcher 2002, chapter 3; Lim 2020 for the Laplacians.

    Args:
        complex: Of any dimension.
        coefficients: "R", or a prime: Betti numbers differ where there is torsion.
        masses: The diagonal inner product of the k-forms, [n_k] for each k; None for the unit one. Harmonic forms
            depend on it, Betti numbers do not. See `dec_masses`.
    """

    complex: SimplicialComplex
    coefficients: Coefficients = "R"
    masses: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        if self.coefficients != "R":
            require_prime(int(self.coefficients))

    def differential_forms(self, k: int) -> CochainSpace:
        """The space of k-forms.

        Raises:
            GeometryError: the complex has no k-simplices.
        """
        if not self.complex.count(k):
            raise GeometryError(f"there are no {k}-simplices", hint=f"degrees run from 0 to {self.complex.dim}")
        unit = torch.ones(self.complex.count(k), dtype=torch.float64)
        return CochainSpace(k, self.complex.simplices[k], self.masses[k] if self.masses else unit)

    def exterior_derivative(self, form: Tensor, k: int) -> Tensor:
        """d of a k-form, [*B, n_k] -> [*B, n_(k+1)]; reduced modulo p where coefficients are. See `cochains`."""
        return self._reduced(cochains.exterior_derivative(self.complex, form, k))

    def cup_product(self, a: Tensor, b: Tensor, degrees: tuple[int, int]) -> Tensor:
        """a u b of forms of these degrees, [*B, n_(p+q)]; reduced modulo p where coefficients are. See `cochains`."""
        return self._reduced(cochains.cup_product(self.complex, a, b, degrees))

    def betti(self, k: int) -> int:
        """The dimension of the k-th cohomology; 0 outside 0 <= k <= dim.

        Over R from ranks modulo a large prime: exact unless that prime divides the torsion of the complex.
        """
        return self.complex.count(k) - self._rank(k) - self._rank(k - 1)

    def cohomology_classes(self, k: int) -> Tensor:
        """A basis of the k-th cohomology, [beta_k, n_k].

        Over R: the harmonic forms, orthonormal in `masses`, float64; the kernel of the Hodge Laplacian
        L_k = d d* + d* d, dense below 2000 simplices and by shift-and-invert above. Modulo p: closed forms, int64,
        independent modulo exact ones.
        """
        self.differential_forms(k)
        if self.coefficients == "R":
            return self._harmonic(k)
        p = int(self.coefficients)
        closed = kernel_modulo(self._matrix(k), p)
        exact = self._matrix(k - 1).T
        _, columns = pivots_modulo(np.concatenate([exact, closed]).T, p)  # greedy: exact forms first, then new ones
        return torch.from_numpy(closed[[c - len(exact) for c in columns if c >= len(exact)]])

    def hodge_laplacian(self, k: int) -> Tensor:
        """L_k = A_(k-1) A_(k-1)^T + A_k^T A_k, dense float64 [n_k, n_k], A_k = M_(k+1)^1/2 d_k M_k^-1/2."""
        return torch.from_numpy(self._laplacian(k).toarray())

    def _reduced(self, form: Tensor) -> Tensor:
        return form if self.coefficients == "R" else form.remainder(int(self.coefficients))

    def _matrix(self, k: int) -> npt.NDArray[np.int64]:
        matrix: npt.NDArray[np.int64] = cochains.coboundary(self.complex, k).toarray()
        return matrix

    @cached_property
    def _ranks(self) -> dict[int, int]:
        return {}

    def _rank(self, k: int) -> int:
        if k not in self._ranks:
            p = 2_147_483_647 if self.coefficients == "R" else int(self.coefficients)
            self._ranks[k] = pivots_modulo(self._matrix(k), p)[0]
        return self._ranks[k]

    def _scaled(self, k: int) -> csr_array:
        d = cochains.coboundary(self.complex, k).astype(np.float64)
        if not self.masses or not all(d.shape):
            return d
        upper, lower = (mass.to(torch.float64).numpy() for mass in (self.masses[k + 1], self.masses[k]))
        return diags_array(np.sqrt(upper)) @ d @ diags_array(1 / np.sqrt(lower))

    def _laplacian(self, k: int) -> csr_array:
        down, up = self._scaled(k - 1), self._scaled(k)
        return down @ down.T + up.T @ up

    def _harmonic(self, k: int) -> Tensor:
        count = self.betti(k)
        root = self.differential_forms(k).mass.sqrt()
        if self.complex.count(k) < _DENSE_SIMPLICES or count >= self.complex.count(k) - 1:
            vectors: Tensor = torch.linalg.eigh(self.hodge_laplacian(k)).eigenvectors
            return vectors[:, :count].T / root
        if not count:
            return root.new_zeros(0, len(root))
        start = numpy_generator(0, "harmonic").standard_normal(len(root))  # the same basis in every run
        found = eigsh(self._laplacian(k).tocsc(), k=count, sigma=_SHIFT, v0=start)[1]
        return torch.from_numpy(found.T.copy()) / root
