"""Path integrals against closed forms, and their errors by observed order."""

import cmath
from math import cos, cosh, exp, log, pi, sin, sinh, sqrt, tanh

import pytest
import torch

from toolkit.errors import GeometryError
from toolkit.geometry.core.quantum.path_integral import (
    Box,
    PathIntegral,
    effective_action,
    functional_determinant_ratio,
    legendre_effective_action,
)
from toolkit.geometry.types import GridField, Path

R = torch.float64
OMEGA = 1.3


def point(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=R)


def well(x: torch.Tensor) -> torch.Tensor:
    return OMEGA**2 / 2 * x.square().sum()


def quartic(x: torch.Tensor) -> torch.Tensor:
    return x.pow(4).sum()


OSCILLATOR = PathIntegral(1.0, well)
FREE = PathIntegral(1.0, lambda x: 0 * x.sum())
ANHARMONIC = PathIntegral(1.0, quartic, box=Box(-5, 5, 256))


def classical(a: float, b: float, end: float, n: int) -> Path:
    t = torch.linspace(0, end, n + 1, dtype=R)
    x = (a * torch.sin(OMEGA * (end - t)) + b * torch.sin(OMEGA * t)) / sin(OMEGA * end)
    return Path(x.unsqueeze(-1), t)


def test_free_action_is_exact_and_the_oscillators_of_second_order():
    t = torch.linspace(0, 2, 5, dtype=R)
    straight = Path(torch.stack([3 * t / 2, -t], -1), t)
    assert PathIntegral(2.0, lambda x: 0 * x.sum(), 2).action_functional(straight) == pytest.approx(13 / 2, abs=1e-12)
    a, b, end = 0.4, -0.9, 1.5
    exact = OMEGA / (2 * sin(OMEGA * end)) * ((a * a + b * b) * cos(OMEGA * end) - 2 * a * b)
    errors = [float(OSCILLATOR.action_functional(classical(a, b, end, n))) - exact for n in (40, 80)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert abs(errors[1]) < 1e-3


def test_the_action_is_stationary_on_the_classical_path_and_differentiable():
    path = classical(0.4, -0.9, 1.5, 200)
    points = path.points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(OSCILLATOR.action_functional(Path(points, path.times)), points)
    assert slope[1:-1].abs().max() < 1e-6  # dt times the second-order error of the discretised equation of motion
    small = torch.linspace(-1, 1, 4, dtype=R).reshape(4, 1).requires_grad_()
    times = torch.arange(4, dtype=R)
    assert torch.autograd.gradcheck(lambda x: OSCILLATOR.action_functional(Path(x, times), euclidean=True), small)


def test_batches_of_paths():
    path = classical(0.4, -0.9, 1.5, 20)
    both = Path(torch.stack([path.points, 2 * path.points]), path.times)
    got = OSCILLATOR.action_functional(both)
    assert got[1] == pytest.approx(4 * float(got[0]), rel=1e-12)


@pytest.mark.parametrize("turns", [0.3, 1.4, 2.6])
def test_mehlers_kernel_moves_the_ground_state_through_caustics(turns):
    time = turns * pi / OMEGA
    x = torch.linspace(-9, 9, 1801, dtype=R).unsqueeze(-1)
    ground = (OMEGA / pi) ** 0.25 * torch.exp(-OMEGA * x[:, 0].square() / 2)
    for end in (0.0, 0.8):
        kernel = OSCILLATOR.propagator(x, point(end), time)
        moved = (kernel * ground).sum() * 0.01
        expected = cmath.exp(-0.5j * OMEGA * time) * (OMEGA / pi) ** 0.25 * exp(-OMEGA * end**2 / 2)
        assert abs(complex(moved) - expected) < 1e-9


def test_free_kernel_and_forces():
    mass, hbar, time = 1.7, 0.6, 0.9
    got = PathIntegral(mass, lambda x: 0 * x.sum(), hbar=hbar).propagator(point(0.2), point(1.1), time)
    phase = mass * 0.81 / (2 * hbar * time) - pi / 4
    expected = cmath.rect(sqrt(mass / (2 * pi * hbar * time)), phase)
    assert abs(complex(got) - expected) < 1e-14
    # A constant force and a shifted well are the limits of each other: V = f x + k x^2 / 2 as k -> 0.
    for euclidean in (False, True):
        falling = PathIntegral(1.0, lambda x: 0.7 * x.sum() + 0.3)
        shallow = PathIntegral(1.0, lambda x: 0.7 * x.sum() + 0.3 + 5e-5 * x.square().sum())
        barrier = PathIntegral(1.0, lambda x: 0.7 * x.sum() + 0.3 - 5e-5 * x.square().sum())
        exact, near, other = (
            p.propagator(point(0.2), point(1.1), 0.9, euclidean=euclidean) for p in (falling, shallow, barrier)
        )
        assert abs(complex((near + other) / 2 - exact)) < 1e-7
        assert abs(complex(near - exact)) < 1e-3


def test_coupled_wells_are_products_over_normal_modes():
    coupled = PathIntegral(1.0, lambda x: (x[0] ** 2 + x[1] ** 2) / 2 + 0.3 * x[0] * x[1], 2)
    a, b = point(0.3, -0.4), point(0.7, 0.1)
    product = torch.ones((), dtype=torch.complex128)
    for sign, stiffness in ((1, 1.3), (-1, 0.7)):
        single = PathIntegral(1.0, lambda x, k=stiffness: k / 2 * x.square().sum())
        ends = [((end[0] + sign * end[1]) / sqrt(2)).reshape(1) for end in (a, b)]
        product = product * single.propagator(*ends, 0.8)
    assert abs(complex(coupled.propagator(a, b, 0.8) - product)) < 1e-13


def test_euclidean_kernels_compose():
    z = torch.linspace(-10, 10, 801, dtype=R).unsqueeze(-1)
    for path, slices in ((OSCILLATOR, None), (FREE, None)):
        both = path.propagator(point(0.3), z, 0.5, euclidean=True) * path.propagator(
            z, point(-0.6), 0.8, euclidean=True
        )
        whole = path.propagator(point(0.3), point(-0.6), 1.3, euclidean=True, slices=slices)
        assert both.sum() * 0.025 == pytest.approx(float(whole), rel=1e-8)


def test_transfer_kernel_converges_to_mehlers_with_order_two():
    exact = OSCILLATOR.propagator(point(0.3), point(-0.2), 0.6, euclidean=True)
    errors = [
        float(OSCILLATOR.propagator(point(0.3), point(-0.2), 0.6, euclidean=True, slices=n) - exact) for n in (8, 16)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    got = ANHARMONIC.propagator(torch.zeros(3, 1, dtype=R), point(0.1), 0.5, euclidean=True)
    assert got.shape == (3,)


def test_partition_function_in_closed_form_and_in_slices():
    beta = 1.0
    assert OSCILLATOR.partition_function(1 / beta) == pytest.approx(1 / (2 * sinh(OMEGA / 2)), rel=1e-14)
    errors = []
    for n in (8, 16):
        got = float(OSCILLATOR.partition_function(1 / beta, slices=n))
        angle = 2 * torch.asinh(torch.tensor(OMEGA * beta / n / 2, dtype=R)).item()
        assert got == pytest.approx(1 / (2 * sinh(n * angle / 2)), rel=1e-11)
        errors.append(got - 1 / (2 * sinh(OMEGA / 2)))
    assert errors[0] / errors[1] == pytest.approx(3.99, abs=0.02)
    shifted = PathIntegral(1.0, lambda x: well(x - 2) + 0.4)
    assert shifted.partition_function(1.0) == pytest.approx(exp(-0.4) / (2 * sinh(OMEGA / 2)), rel=1e-12)


def test_partition_function_of_a_quartic_well_by_its_levels():
    # Levels of p^2 / 2 + x^4 from the matrix of x in 80 oscillator states: independent of every grid.
    n = torch.arange(1, 80, dtype=R)
    x = (torch.diag(n.sqrt(), 1) + torch.diag(n.sqrt(), -1)) / sqrt(2)
    p2 = torch.diag(torch.arange(80, dtype=R) + 0.5) * 2 - x @ x
    levels = torch.linalg.eigvalsh((p2 / 2 + torch.linalg.matrix_power(x, 4))[:70, :70])
    expected = torch.exp(-levels).sum()
    errors = [float(ANHARMONIC.partition_function(1.0, slices=s)) - float(expected) for s in (32, 64)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert abs(errors[1]) < 1e-3 * float(expected)


def test_correlations_of_the_oscillator_converge_and_obey_wick():
    def x(q):
        return q

    exact = cosh(OMEGA * (0.5 - 0.3)) / (2 * OMEGA * sinh(OMEGA / 2))
    errors = [float(OSCILLATOR.correlation_function([(x, 0.0), (x, 0.3)], 1.0, slices=n)) - exact for n in (16, 32)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    square = OSCILLATOR.correlation_function([(torch.square, 0.2)], 1.0, slices=128)
    assert square == pytest.approx(1 / (2 * OMEGA * tanh(OMEGA / 2)), rel=1e-4)
    fourth = OSCILLATOR.correlation_function([(lambda q: q**4, 0.0)], 1.0, slices=128)
    assert fourth == pytest.approx(3 * float(square) ** 2, rel=1e-9)


def test_split_operator_keeps_the_norm_and_converges_with_order_two():
    h = 20 / 256
    x = (torch.arange(256, dtype=R) - 128) * h
    wave = GridField(((2 / pi) ** 0.25 * torch.exp(-((x - 0.5) ** 2))).to(torch.complex128), (h,), (True,))
    fine = ANHARMONIC.evolve(wave, 0.5, 800).values
    coarse, half = (ANHARMONIC.evolve(wave, 0.5, n).values for n in (50, 100))
    assert (fine - coarse).norm() / (fine - half).norm() == pytest.approx(4, rel=0.1)
    assert coarse.abs().square().sum() * h == pytest.approx(1, abs=1e-12)
    ground = GridField(((OMEGA / pi) ** 0.25 * torch.exp(-OMEGA * x**2 / 2)).to(torch.complex128), (h,), (True,))
    moved = OSCILLATOR.evolve(ground, 1.0, 400).values
    phase = torch.exp(torch.tensor(-0.5j * OMEGA, dtype=torch.complex128))
    assert (moved - phase * ground.values).abs().max() < 1e-6


def tilted(phi: torch.Tensor) -> torch.Tensor:
    return phi[0] ** 2 / 2 + 0.3 * phi[0] ** 3 / 6 + phi[0] ** 4 / 24


def test_loops_approach_the_legendre_transform_by_their_order():
    errors = {0: [], 1: [], 2: []}
    for hbar in (0.02, 0.01):
        exact = legendre_effective_action(tilted, torch.zeros((), dtype=R), hbar=hbar)
        for loops, found in errors.items():
            found.append(float(effective_action(tilted, point(0.0), loops=loops, hbar=hbar) - exact))
    assert errors[1][0] / errors[1][1] == pytest.approx(4, rel=0.05)
    assert errors[2][0] / errors[2][1] == pytest.approx(8, rel=0.1)
    assert abs(errors[2][0]) < 0.05 * abs(errors[1][0])


def test_one_loop_ratio_of_the_quartic_action():
    errors = []
    for hbar in (0.02, 0.01):
        exact = legendre_effective_action(lambda p: p[0] ** 2 / 2 + p[0] ** 4 / 24, torch.zeros(1, dtype=R), hbar=hbar)
        one = effective_action(lambda p: p[0] ** 2 / 2 + p[0] ** 4 / 24, point(0.0), hbar=hbar)
        errors.append(float(one - exact))
    assert errors[0] / errors[1] == pytest.approx(3.97, abs=0.01)


def test_the_legendre_transform_is_convex():
    phi = torch.linspace(-2, 2, 41, dtype=R)
    gamma = legendre_effective_action(lambda p: (p[0] ** 2 - 1) ** 2, phi, hbar=0.5)
    assert (gamma[2:] - 2 * gamma[1:-1] + gamma[:-2]).min() > -1e-9  # though the action is not


def test_gelfand_yaglom():
    for time in (0.7, 2.9):
        assert functional_determinant_ratio(lambda t: -1.0, time) == pytest.approx(sin(time) / time, abs=1e-11)
    coarse, half = (functional_determinant_ratio(lambda t: -1.0, 2.0, steps=n) - sin(2) / 2 for n in (20, 40))
    assert coarse / half == pytest.approx(16, rel=0.2)
    errors = []
    for n in (100, 200):
        path = Path(torch.zeros(n + 1, 1, dtype=R), torch.linspace(0, 2, n + 1, dtype=R))
        loop = OSCILLATOR.effective_action(path)
        errors.append(float(loop) - 0.5 * log(functional_determinant_ratio(lambda t: OMEGA**2, 2.0)))
        assert OSCILLATOR.effective_action(path, loops=0) == 0
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PathIntegral(-1.0, well), "mass -1"),
        (lambda: OSCILLATOR.propagator(point(0), point(1), pi / OMEGA), "caustic, 1 times pi"),
        (lambda: OSCILLATOR.propagator(point(0), point(1), 0.0), "time 0"),
        (lambda: OSCILLATOR.propagator(point(0, 1), point(1), 1.0), r"\(2,\)"),
        (lambda: ANHARMONIC.propagator(point(0), point(1), 1.0), "real-time"),
        (lambda: ANHARMONIC.propagator(point(0), point(1), 1.0, euclidean=True, slices=1), "1 slices"),
        (lambda: PathIntegral(1.0, lambda x: -x.square().sum()).propagator(point(0), point(0), 9.0, euclidean=True),
         "diverges"),
        (lambda: FREE.partition_function(1.0), "not bound"),
        (lambda: FREE.partition_function(1.0, slices=64), "wall"),
        (lambda: OSCILLATOR.partition_function(0.0), "temperature 0"),
        (lambda: OSCILLATOR.correlation_function([], 1.0, slices=-1), "-1 slices"),
        (lambda: OSCILLATOR.correlation_function([(lambda q: q, 2.0)], 1.0), "imaginary time 2"),
        (lambda: ANHARMONIC.partition_function(1.0, slices=100_000), "grid steps"),
        (lambda: PathIntegral(1.0, lambda x: x.pow(4).sum() - 1e4).partition_function(1.0, slices=8), "falls to"),
        (lambda: PathIntegral(1.0, quartic, 2).partition_function(1.0), "dimension 2"),
        (lambda: PathIntegral(1.0, lambda x: x.sum().log()).partition_function(1.0), "potential is nan"),
        (lambda: Box(1, 0, 9), "from 1 to 0"),
        (lambda: OSCILLATOR.action_functional(Path(torch.zeros(3, 2), torch.arange(3))), "dimension 1"),
        (lambda: OSCILLATOR.effective_action(classical(0, 1, 1, 4), loops=2), "2 loops"),
        (lambda: OSCILLATOR.evolve(GridField(torch.zeros(8), (1.0,), (True,)), 1.0, 1), "float32"),
        (lambda: OSCILLATOR.evolve(GridField(torch.zeros(8), (1.0,), (False,)), 1.0, 1), "periodic"),
        (lambda: effective_action(tilted, point(0.0, 1.0), loops=2), "2 loops"),
        (lambda: effective_action(lambda p: -p.square().sum(), point(0.0)), "eigenvalue -2"),
        (lambda: legendre_effective_action(tilted, point(99.0)), "outside"),
        (lambda: legendre_effective_action(lambda p: 1e9 * p[0] ** 4, point(2.0)), "missed by"),
        (lambda: legendre_effective_action(lambda p: 0.01 * p.square().sum(), point(1.0)), "end of the range"),
        (lambda: functional_determinant_ratio(lambda t: -1.0, 0.0), "time 0"),
        (lambda: functional_determinant_ratio(lambda t: float("inf"), 1.0), "inf|nan"),
    ],
)  # fmt: skip
def test_what_has_no_answer_is_refused_with_its_value(call, says):
    with pytest.raises(GeometryError, match=says):
        call()
