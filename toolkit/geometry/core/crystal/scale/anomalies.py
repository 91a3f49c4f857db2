"""Anomaly coefficients of chiral fermions, as exact fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from toolkit.errors import GeometryError

__all__ = ["WeylFermion", "anomaly_polynomial", "plane_anomaly"]

_INDEX = {1: Fraction(0), 2: Fraction(1, 2), 3: Fraction(2), 4: Fraction(5)}  # T of SU(2), by dimension
_COLOUR_INDEX = {1: Fraction(0), 3: Fraction(1, 2), 6: Fraction(5, 2), 8: Fraction(3)}  # T of SU(3)
_COLOUR_CUBIC = {1: 0, 3: 1, 6: 7, 8: 0}  # A of SU(3)


@dataclass(frozen=True)
class WeylFermion:
    """Left-handed fermions in one representation of SU(3) x SU(2) x U(1).

    Args:
        charge: Under U(1), exact.
        isospin: Dimension under SU(2), 1 to 4.
        colour: Dimension under SU(3): 1, 3, 6 or 8; negative for the conjugate.
        copies: How many.
    """

    charge: Fraction
    isospin: int = 1
    colour: int = 1
    copies: int = 1

    def __post_init__(self) -> None:
        if self.isospin not in _INDEX or abs(self.colour) not in _COLOUR_INDEX or self.copies < 1:
            raise GeometryError(
                f"{self.copies} fermions of SU(3) x SU(2) dimensions {self.colour} x {self.isospin}",
                hint=f"SU(2): {sorted(_INDEX)}; SU(3): {sorted(_COLOUR_INDEX)}, negative for conjugates; copies >= 1",
            )
        if not isinstance(self.charge, Fraction | int):
            raise GeometryError(f"the charge {self.charge!r}", hint="charges are exact: use fractions.Fraction")


def anomaly_polynomial(fermions: Sequence[WeylFermion]) -> dict[str, Fraction]:
    """The coefficients that must vanish for the symmetry to survive quantisation in four dimensions.

    "U(1)^3" sum q^3 · "gravity^2 U(1)" sum q · "SU(2)^2 U(1)" and "SU(3)^2 U(1)" sum T(R) q · "SU(3)^3" sum A(R)

    Raises:
        GeometryError: there is no fermion.

    Source: Bilal 2008, arXiv:0802.0634; indices: Slansky 1981, Phys. Rep. 79, 1.
    """
    if not fermions:
        raise GeometryError("anomalies of an empty list of fermions", hint="give at least one")
    total = dict.fromkeys(("U(1)^3", "gravity^2 U(1)", "SU(2)^2 U(1)", "SU(3)^2 U(1)", "SU(3)^3"), Fraction(0))
    for f in fermions:
        q, size = Fraction(f.charge), abs(f.colour)
        total["U(1)^3"] += f.copies * f.isospin * size * q**3
        total["gravity^2 U(1)"] += f.copies * f.isospin * size * q
        total["SU(2)^2 U(1)"] += f.copies * size * _INDEX[f.isospin] * q
        total["SU(3)^2 U(1)"] += f.copies * f.isospin * _COLOUR_INDEX[size] * q
        total["SU(3)^3"] += f.copies * f.isospin * _COLOUR_CUBIC[size] * (1 if f.colour > 0 else -1)
    return total


def plane_anomaly(left: Sequence[Fraction | int], right: Sequence[Fraction | int]) -> Fraction:
    """sum q^2 of left movers minus that of right movers, the U(1) anomaly in two dimensions."""
    return sum((Fraction(q) ** 2 for q in left), Fraction(0)) - sum((Fraction(q) ** 2 for q in right), Fraction(0))
