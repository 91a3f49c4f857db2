"""Heights, exact iteration, zeta functions and residues against closed forms."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns import arithmetic as ar
from toolkit.rng import torch_generator

RATIONALS = st.builds(Fraction, st.integers(-(10**6), 10**6), st.integers(1, 10**6))
square = ar.RationalMap.polynomial


@settings(derandomize=True, deadline=None)
@given(RATIONALS)
def test_height_is_the_sum_over_places(x: Fraction) -> None:
    assert sum(ar.local_heights(x).values()) == pytest.approx(ar.arithmetic_height(x), abs=1e-12)
    if x:
        assert sum(ar.local_logarithms(x).values()) == pytest.approx(0, abs=1e-12)


def test_heights_of_known_numbers() -> None:
    assert ar.arithmetic_height(Fraction(-22, 7)) == math.log(22)
    assert ar.arithmetic_height(0) == 0.0
    assert ar.local_heights(Fraction(1, 12)) == {2: 2 * math.log(2), 3: math.log(3)}
    assert ar.local_logarithms(Fraction(1)) == {}


def test_bits_of_quantized_weights() -> None:
    levels = torch.tensor([[0, 1, -2], [4, 3, 8]], dtype=torch.int8)
    # over 4: 0, 1/4, -1/2, 1, 3/4, 2 have heights ln of 1, 4, 2, 1, 4, 2
    assert ar.quantized_height(levels, 0.25) / math.log(2) == pytest.approx((0 + 2 + 1 + 0 + 2 + 1) / 6, abs=1e-14)
    assert ar.quantized_height(levels, 0.1) > ar.quantized_height(levels, 0.125)  # 0.1 is a long fraction over 2**55


@pytest.mark.parametrize(
    ("mapping", "x", "expected"),
    [
        (square(0, 0, 1), Fraction(7, 5), math.log(7)),
        (square(-2, 0, 1), Fraction(5, 2), 2 * math.log(2)),
        (square(-2, 0, 1), Fraction(10, 3), 2 * math.log(3)),
        (square(Fraction(-29, 16), 0, 1), Fraction(1, 2), 2 * math.log(2)),
        (square(Fraction(-29, 16), 0, 1), Fraction(-1, 4), 0.0),
    ],
)
def test_canonical_heights(mapping: ar.RationalMap, x: Fraction, expected: float) -> None:
    found = ar.canonical_height(mapping, x)
    assert found.value == pytest.approx(expected, abs=max(2 * found.error, 1e-12))
    image = mapping(x)
    assert image is not None
    assert ar.canonical_height(mapping, image).value == pytest.approx(
        mapping.degree * found.value, abs=4 * found.error + 1e-12
    )


def test_canonical_height_on_an_elliptic_curve() -> None:
    found = ar.canonical_height(ar.elliptic_doubling(0, 0, 1, -1, 0), 0, 9)
    assert found.value == pytest.approx(0.05111140824, abs=2 * found.error)
    assert found.error < 1e-4


def test_orbits() -> None:
    mapping = square(Fraction(-29, 16), 0, 1)
    assert mapping(Fraction(-1, 4)) == Fraction(-7, 4)
    assert ar.orbit_analysis(mapping, Fraction(-1, 4)) == ar.Orbit(0, 3)
    assert ar.orbit_analysis(mapping, Fraction(1, 4)) == ar.Orbit(1, 3)
    assert ar.orbit_analysis(mapping, Fraction(1, 2)) == ar.Orbit(None, None)
    assert ar.orbit_analysis(mapping, None) == ar.Orbit(0, 1)
    inverse = ar.RationalMap((Fraction(1),), (Fraction(0), Fraction(1)))
    assert inverse(0) is None
    assert inverse(None) == 0
    assert ar.orbit_analysis(inverse, 5) == ar.Orbit(0, 2)
    assert ar.orbit_analysis(square(-1, 0, 1), 1) == ar.Orbit(1, 2)


@pytest.mark.parametrize("degree", [2, 3])
def test_arithmetic_degree(degree: int) -> None:
    found = ar.growth_analysis(square(1, *[0] * (degree - 1), 1), 2, 9)
    assert found.ratio == pytest.approx(degree, rel=1e-3)
    assert abs(found.root - degree) < abs(ar.growth_analysis(square(1, *[0] * (degree - 1), 1), 2, 4).root - degree)
    assert ar.growth_analysis(square(-1, 0, 1), 1, 9).root == 1.0


@pytest.mark.parametrize(
    ("character", "s", "expected"),
    [
        ([0, 1, 0, -1], 1, math.pi / 4),
        ([0, 1, -1], 1, math.pi / (3 * math.sqrt(3))),
        ([0, 1, 0, -1], 2, 0.915965594177219015),
        ([1], 2, math.pi**2 / 6),
    ],
)
def test_dirichlet_values(character: list[int], s: int, expected: float) -> None:
    assert ar.l_function("dirichlet", character, s) == pytest.approx(expected, rel=1e-13)


POINTS = torch.tensor([0.1, -0.3, 0.45], dtype=torch.float64)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_ihara_of_a_cycle(n: int) -> None:
    ring = torch.eye(n, dtype=torch.float64).roll(1, 0)
    torch.testing.assert_close(ar.ihara_reciprocal(ring + ring.T, POINTS), (1 - POINTS**n) ** 2, rtol=1e-12, atol=0)


def test_ihara_of_the_tetrahedron() -> None:
    full = torch.ones(4, 4, dtype=torch.float64) - torch.eye(4, dtype=torch.float64)
    u = POINTS
    expected = (1 - u**2) ** 2 * (1 - u) * (1 - 2 * u) * (1 + u + 2 * u**2) ** 3
    torch.testing.assert_close(ar.ihara_reciprocal(full, u), expected, rtol=1e-12, atol=0)
    assert ar.l_function("ihara", full, 0.1) == pytest.approx(1 / float(expected[0]), rel=1e-12)


def test_artin_mazur() -> None:
    shift = torch.ones(2, 2, dtype=torch.float64)
    torch.testing.assert_close(ar.artin_mazur_reciprocal(shift, POINTS), 1 - 2 * POINTS)
    golden = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    walks = sum(float(torch.linalg.matrix_power(golden, n).trace()) * 0.1**n / n for n in range(1, 40))
    assert ar.l_function("artin_mazur", golden, 0.1) == pytest.approx(math.exp(walks), rel=1e-12)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([7, 15, 31, 62]))
def test_exact_products(seed: int, bits: int) -> None:
    generator = torch_generator(seed)
    a, b = (torch.randint(-(2**bits), 2**bits, shape, generator=generator) for shape in ((3, 5), (5, 4)))
    expected = np.array(a.tolist(), dtype=object) @ np.array(b.tolist(), dtype=object)
    assert (ar.crt_matmul(a, b) == expected).all()


def test_an_integer_kernel_is_held_against_the_exact_product() -> None:
    generator = torch_generator(5)
    a, b = (torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in ((6, 40), (40, 7)))
    product = a.to(torch.int32) @ b.to(torch.int32)
    assert ar.crt_check(a, b, product)
    product[2, 3] += 1
    report = ar.crt_check(a, b, product)
    assert not report
    assert (report.value, report.detail["first"]["index"]) == (1.0, (2, 3))
    assert report.detail["first"]["is"] == report.detail["first"]["should_be"] + 1
    assert not ar.crt_check(a, b, a.to(torch.int16) @ b.to(torch.int16))  # overflows: what the check is for


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ar.arithmetic_height(0.5), "0.5"),
        (lambda: ar.local_logarithms(0), "0 has no"),
        (lambda: ar.local_heights(Fraction(1, 1000003 * 1000033)), "factor"),
        (lambda: ar.quantized_height(torch.ones(3), 0.5), "float32"),
        (lambda: ar.quantized_height(torch.ones(3, dtype=torch.int8), math.inf), "inf"),
        (lambda: ar.canonical_height(square(1, 1), 2), "degree 1"),
        (lambda: ar.growth_analysis(square(0, 0, 1), 2, 0), "0 steps"),
        (lambda: ar.RationalMap((Fraction(1), Fraction(0))), "ends in zero"),
        (lambda: ar.RationalMap((Fraction(0), Fraction(1)), (Fraction(0), Fraction(1)))(0), "0/0"),
        (lambda: ar.dirichlet_l([0, 1, 1, 1], 2), "no character"),
        (lambda: ar.dirichlet_l([1], 1), "pole"),
        (lambda: ar.l_function("ihara", [1, 2], 0.5), "list"),
        (lambda: ar.l_function("artin_mazur", torch.ones(2, 2), 0.5), "pole at 0.5"),
        (lambda: ar.ihara_reciprocal(torch.ones(2, 2), POINTS), "simple graph"),
        (lambda: ar.crt_matmul(torch.ones(2, 2), torch.ones(2, 2)), "float32"),
        (lambda: ar.crt_matmul(torch.ones(2, 0, dtype=torch.int8), torch.ones(0, 2, dtype=torch.int8)), "0 products"),
        (lambda: ar.crt_check(*[torch.ones(2, 2, dtype=torch.int8)] * 2, torch.ones(2, 2)), "float32"),
    ],
)
def test_bad_input(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GeometryError, match=says):
        call()


def test_doubling_by_the_tangent_on_a_curve_with_every_coefficient() -> None:
    a1, a2, a3, a4, a6 = 1, -1, 1, -3, 3  # the point (1, 0)
    slope = Fraction(3 + 2 * a2 + a4, a1 + a3)
    assert ar.elliptic_doubling(a1, a2, a3, a4, a6)(1) == slope**2 + a1 * slope - a2 - 2
