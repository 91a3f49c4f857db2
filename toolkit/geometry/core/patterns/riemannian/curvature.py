"""What the Riemann tensor at a point says: Ricci, scalar, sectional and Weyl curvature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns.riemannian import tensors
from toolkit.geometry.linear import solve

__all__ = ["Curvature"]


@dataclass(frozen=True)
class Curvature:
    """The curvature of a metric at points.

    Args:
        metric: g [*B, n, n].
        riemann: R^l_ijk, [*B, l, i, j, k] with R_lijk = K (g_lj g_ik - g_lk g_ij) at constant curvature K.
    """

    metric: Tensor
    riemann: Tensor

    @cached_property
    def lowered(self) -> Tensor:
        """R_lijk, [*B, l, i, j, k]: antisymmetric in (l, i) and in (j, k), symmetric under exchange of the pairs."""
        return torch.einsum("...lm,...mijk->...lijk", self.metric, self.riemann)

    @cached_property
    def ricci(self) -> Tensor:
        """Ric_ij = R^l_ilj, [*B, n, n]."""
        return tensors.ricci(self.riemann)

    @cached_property
    def scalar(self) -> Tensor:
        """R = g^ij Ric_ij, [*B]; twice the Gauss curvature on surfaces."""
        return torch.einsum("...ii->...", solve(self.metric, self.ricci))

    @cached_property
    def weyl(self) -> Tensor:
        """The trace-free part of R_lijk, [*B, n, n, n, n]; zero for n <= 3. Source: Lee 2018, chapter 7."""
        n, g = self.metric.shape[-1], self.metric
        if n < 4:
            return torch.zeros_like(self.riemann)
        scalar = self.scalar[..., None, None, None, None]
        return self.lowered - _wedge(g, self.ricci) / (n - 2) + scalar * _wedge(g, g) / (2 * (n - 1) * (n - 2))

    @property
    def kretschmann(self) -> Tensor:
        """R_lijk R^lijk, [*B]."""
        inverse = torch.linalg.inv(self.metric)  # raises three indices of one tensor: no system to solve instead
        raised = torch.einsum("...lpqr,...pi,...qj,...rk->...lijk", self.riemann, inverse, inverse, inverse)
        return torch.einsum("...lijk,...lijk->...", self.lowered, raised)

    def sectional(self, u: Tensor, v: Tensor) -> Tensor:
        """The Gauss curvature of the plane of u and v.

        Args:
            u, v: [*B, n], components of independent vectors.

        Returns:
            [*B].

        Raises:
            GeometryError: somewhere u and v span no plane (or, in an indefinite metric, a null one).
        """
        uu, vv, uv = (torch.einsum("...ij,...i,...j->...", self.metric, a, b) for a, b in ((u, u), (v, v), (u, v)))
        area = uu * vv - uv.square()
        flat = ~(area.abs() > 1e-14 * (uu * vv).abs())  # the difference of two equal products, to rounding
        if bool(flat.any()):
            raise GeometryError(
                f"the vectors span a plane of squared area {float(area[flat][0]):.3g}", hint="give independent vectors"
            )
        return torch.einsum("...lijk,...l,...i,...j,...k->...", self.lowered, u, v, u, v) / area


def _wedge(a: Tensor, b: Tensor) -> Tensor:
    """The Kulkarni-Nomizu product of symmetric tensors [*B, n, n], in the index order of R_lijk."""
    one = torch.einsum("...lj,...ik->...lijk", a, b) + torch.einsum("...ik,...lj->...lijk", a, b)
    return one - one.mT
