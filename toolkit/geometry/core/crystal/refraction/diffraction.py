"""How strongly a crystal scatters into each reciprocal lattice vector."""

from __future__ import annotations

from collections.abc import Mapping
from math import pi

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import Crystal

__all__ = ["structure_factor"]


def structure_factor(crystal: Crystal, hkl: Tensor, form_factors: Mapping[int, float] | None = None) -> Tensor:
    """F(h) = sum_j f_j exp(2 pi i h.x_j), complex [*B]; 0 where a reflection is extinct.

    Args:
        crystal: Its fractional positions x_j and species.
        hkl: Integer [*B, d].
        form_factors: f by species; 1 for all if not given.

    Raises:
        GeometryError: indices of another dimension, or a species without a form factor.

    Source: Ashcroft and Mermin 1976, chapter 6.
    """
    if hkl.ndim < 1 or hkl.shape[-1] != crystal.lattice.dim or hkl.is_floating_point():
        raise GeometryError(
            f"Miller indices of {hkl.dtype} {tuple(hkl.shape)}", hint=f"give integers [*B, {crystal.lattice.dim}]"
        )
    kinds = crystal.species.tolist()
    if form_factors is not None and (missing := sorted(set(kinds) - set(form_factors))):
        raise GeometryError(f"species {missing[0]} has no form factor", hint="give one for each species")
    strengths = [1.0 if form_factors is None else form_factors[kind] for kind in kinds]
    positions = crystal.positions
    phases = torch.exp(2j * pi * (hkl.to(positions.dtype) @ positions.T))
    return require_finite(phases @ torch.tensor(strengths, dtype=phases.dtype), "a structure factor")
