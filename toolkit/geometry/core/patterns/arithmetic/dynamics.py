"""Iteration of rational maps in exact arithmetic: canonical heights, growth, preperiodic points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

from toolkit.errors import GeometryError

__all__ = [
    "CanonicalHeight",
    "Growth",
    "Orbit",
    "RationalMap",
    "canonical_height",
    "elliptic_doubling",
    "growth_analysis",
    "orbit_analysis",
]

_Point: TypeAlias = tuple[int, int]
"""(p : q) in lowest terms, q >= 0; (1 : 0) is infinity."""


@dataclass(frozen=True)
class RationalMap:
    """x -> numerator(x) / denominator(x) over the rationals, coefficients from the constant upwards.

    `RationalMap.polynomial(-2, 0, 1)` is x^2 - 2. Infinity is a point like others, written as None.
    """

    numerator: tuple[Fraction, ...]
    denominator: tuple[Fraction, ...] = (Fraction(1),)

    def __post_init__(self) -> None:
        for name, terms in (("numerator", self.numerator), ("denominator", self.denominator)):
            if not terms or not terms[-1]:
                raise GeometryError(f"the {name} {terms} ends in zero", hint="the last coefficient is the leading one")

    @classmethod
    def polynomial(cls, *coefficients: Fraction | int) -> RationalMap:
        """The polynomial with these coefficients, from the constant upwards."""
        return cls(tuple(map(Fraction, coefficients)))

    @property
    def degree(self) -> int:
        """The larger of the two degrees."""
        return max(len(self.numerator), len(self.denominator)) - 1

    def __call__(self, x: Fraction | int | None) -> Fraction | None:
        p, q = self._step(_point(x))
        return Fraction(p, q) if q else None

    def orbit(self, x: Fraction | int | None) -> Iterator[_Point]:
        """x, f(x), f(f(x)), ... as coprime pairs, without end."""
        point = _point(x)
        while True:
            yield point
            point = self._step(point)

    def _step(self, point: _Point) -> _Point:
        clear = math.lcm(*(c.denominator for c in self.numerator + self.denominator))
        p, q = (self._form([int(c * clear) for c in terms], point) for terms in (self.numerator, self.denominator))
        common = math.gcd(p, q)
        if not common:
            raise GeometryError(f"the map is 0/0 at {Fraction(*point)}", hint="cancel common factors first")
        sign = -1 if q < 0 or (q == 0 and p < 0) else 1
        return sign * p // common, sign * q // common

    def _form(self, terms: Sequence[int], point: _Point) -> int:
        p, q = point
        d = self.degree
        return sum(c * p**i * q ** (d - i) for i, c in enumerate(terms))


def _point(x: Fraction | int | None) -> _Point:
    return (1, 0) if x is None else (Fraction(x).numerator, Fraction(x).denominator)


def _height(point: _Point) -> float:
    return math.log(max(abs(point[0]), point[1]))


def elliptic_doubling(a1: int, a2: int, a3: int, a4: int, a6: int) -> RationalMap:
    """x(P) -> x(2P) on y^2 + a1 xy + a3 y = x^3 + a2 x^2 + a4 x + a6, of degree 4. Source: Silverman 2009, III.2.3."""
    b2, b4, b6 = a1 * a1 + 4 * a2, 2 * a4 + a1 * a3, a3 * a3 + 4 * a6
    b8 = a1 * a1 * a6 + 4 * a2 * a6 - a1 * a3 * a4 + a2 * a3 * a3 - a4 * a4
    top, bottom = (-b8, -2 * b6, -b4, 0, 1), (b6, 2 * b4, b2, 4)
    return RationalMap(tuple(map(Fraction, top)), tuple(map(Fraction, bottom)))


@dataclass(frozen=True)
class CanonicalHeight:
    """`value` in nats; `error` estimates how far it is from the limit. Preperiodic points have value 0, error 0."""

    value: float
    error: float


def canonical_height(mapping: RationalMap, x: Fraction | int, iterations: int = 12) -> CanonicalHeight:
    """lim h(f^n x) / d^n, by `iterations` exact steps (numbers of about d^n h digits).

    The error is C / ((d - 1) d^n), with C the largest |h(f y) - d h(y)| seen on the orbit: an estimate, as C bounds
    that defect for all y only in theory. A preperiodic orbit is recognised by its repeating.

    Raises:
        GeometryError: the degree is below 2, where the limit means nothing.

    Source: Call & Silverman 1993.
    """
    d = mapping.degree
    if d < 2 or iterations < 1:
        raise GeometryError(f"a map of degree {d}, {iterations} steps", hint="degree 2 or more, and one step or more")
    seen: set[_Point] = set()
    heights: list[float] = []
    for _, point in zip(range(iterations + 1), mapping.orbit(x), strict=False):
        if point in seen:
            return CanonicalHeight(0.0, 0.0)
        seen.add(point)
        heights.append(_height(point))
    defect = max(abs(after - d * before) for before, after in pairwise(heights))
    return CanonicalHeight(heights[-1] / d**iterations, defect / ((d - 1) * d**iterations))


@dataclass(frozen=True)
class Growth:
    """`heights` along the orbit, nats; `root` = h+(f^n x)^(1/n), which tends to the arithmetic degree, and `ratio` of
    the last two h+, which for a morphism does so faster; h+ = max(1, h)."""

    heights: tuple[float, ...]
    root: float
    ratio: float


def growth_analysis(mapping: RationalMap, x: Fraction | int, iterations: int = 12) -> Growth:
    """The arithmetic degree of an orbit: the degree of the map, or 1 for preperiodic points.

    Source: Kawaguchi & Silverman 2016.
    """
    if iterations < 1:
        raise GeometryError(f"growth over {iterations} steps", hint="take one step or more")
    heights = tuple(_height(point) for _, point in zip(range(iterations + 1), mapping.orbit(x), strict=False))
    before, last = (max(1.0, h) for h in heights[-2:])
    return Growth(heights, last ** (1 / iterations), last / before)


@dataclass(frozen=True)
class Orbit:
    """`preperiod` steps lead to a cycle of `period`; both None if the orbit passed `max_height` (nats) first."""

    preperiod: int | None
    period: int | None


def orbit_analysis(mapping: RationalMap, x: Fraction | int | None, *, max_height: float = 1000.0) -> Orbit:
    """The shape of an orbit by Brent's algorithm, in exact arithmetic; it ends, as heights below a bound are few.

    Source: Brent 1980.
    """

    def walk(start: _Point) -> Iterator[_Point]:
        return mapping.orbit(Fraction(*start) if start[1] else None)

    start = _point(x)
    power, period, tortoise = 1, 0, start
    for hare in walk(start):
        if period and hare == tortoise:
            break
        if _height(hare) > max_height:
            return Orbit(None, None)
        if period == power:
            tortoise, power, period = hare, 2 * power, 0
        period += 1
    ahead = walk(start)
    for _ in range(period):
        next(ahead)
    for preperiod, (slow, fast) in enumerate(zip(walk(start), ahead, strict=False)):
        if slow == fast:
            return Orbit(preperiod, period)
    raise AssertionError("orbits are endless")
