"""Heights: how much it takes to write an exact number down, in all and place by place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor

from toolkit.errors import GeometryError

__all__ = ["arithmetic_height", "local_heights", "local_logarithms", "quantized_height"]

_LARGEST_FACTOR = 1_000_000  # by trial division; what is left above its square cannot be told prime


def arithmetic_height(x: Fraction | int) -> float:
    """The Weil height ln max(|p|, |q|) of x = p/q in lowest terms, nats. Source: Silverman 2007, chapter 3."""
    fraction = _exact(x)
    return math.log(max(abs(fraction.numerator), fraction.denominator))


def quantized_height(levels: Tensor, scale: float) -> float:
    """The mean height, nats a weight, of the numbers scale * levels; over ln 2, the bits that writing each one takes.

    Args:
        levels: Integers of any shape, the zero point already taken off.
        scale: Finite and positive; powers of two make the shortest numbers, as every float is a fraction over one.

    Raises:
        GeometryError: the levels are no integers or there are none, or the scale is not finite and positive.
    """
    if levels.is_floating_point() or levels.is_complex() or not levels.numel():
        raise GeometryError(f"levels come as {levels.dtype} {tuple(levels.shape)}", hint="pass the stored integers")
    if not (math.isfinite(scale) and scale > 0):
        raise GeometryError(f"the scale is {scale}", hint="scales are finite and positive")
    values, counts = torch.unique(levels, return_counts=True)
    step = Fraction(scale)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return sum((n * arithmetic_height(step * k) for k, n in pairs), 0.0) / levels.numel()


def local_heights(x: Fraction | int) -> dict[int | str, float]:
    """The part of every place in the height: ln max(1, |x|_v), without zeros; "inf" is the absolute value's.

    They sum to `arithmetic_height`.

    Raises:
        GeometryError: the denominator has two prime factors above a million.
    """
    fraction = _exact(x)
    found: dict[int | str, float] = {p: n * math.log(p) for p, n in _factors(fraction.denominator)}
    if abs(fraction) > 1:
        found["inf"] = math.log(abs(fraction.numerator)) - math.log(fraction.denominator)
    return found


def local_logarithms(x: Fraction | int) -> dict[int | str, float]:
    """ln |x|_v at every place where it is not 0, with |p|_p = 1/p; they sum to 0 (the product formula).

    Raises:
        GeometryError: x is 0, or has two prime factors above a million.
    """
    fraction = _exact(x)
    if not fraction:
        raise GeometryError("0 has no logarithm at any place", hint="pass a number other than 0")
    found: dict[int | str, float] = {p: n * math.log(p) for p, n in _factors(fraction.denominator)}
    found.update({p: -n * math.log(p) for p, n in _factors(abs(fraction.numerator))})
    if abs(fraction) != 1:
        found["inf"] = math.log(abs(fraction.numerator)) - math.log(fraction.denominator)
    return found


def _exact(x: Fraction | int) -> Fraction:
    if isinstance(x, bool) or not isinstance(x, int | Fraction):
        raise GeometryError(f"{x!r} is no exact number", hint="pass an int or a fractions.Fraction, never a float")
    return Fraction(x)


def _factors(n: int) -> Iterator[tuple[int, int]]:
    """Prime factors of n >= 1 with their exponents."""
    p = 2
    while p * p <= n:
        if p > _LARGEST_FACTOR:
            raise GeometryError(f"{n} has no factor below {_LARGEST_FACTOR}", hint="such numbers are not factored here")
        count = 0
        while n % p == 0:
            n, count = n // p, count + 1
        if count:
            yield p, count
        p += 1 if p == 2 else 2
    if n > 1:
        yield n, 1
