"""Hamiltonian systems: closed-form motion, conserved quantities, observed orders, brackets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jacrev

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns.riemannian import RiemannianManifold, metrics
from toolkit.geometry.neural.flow import hamiltonian as ham
from toolkit.rng import torch_generator

F64 = torch.float64


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


OSCILLATOR = ham.Mechanical(lambda q: 0.5 * q.square().sum())
PENDULUM = ham.Mechanical(lambda q: -q.cos().sum())
KEPLER = ham.Mechanical(lambda q: -1 / q.norm())


@pytest.mark.parametrize(
    ("system", "q", "p", "expected"),
    [
        (OSCILLATOR, vector(0.3), vector(0.7), vector(-0.3)),
        (PENDULUM, vector(0.3), vector(0.7), vector(-math.sin(0.3))),
        (KEPLER, vector(3.0, 4.0), vector(0.1, 0.2), vector(-3 / 125, -4 / 125)),
    ],
)
def test_equations_of_motion(system: ham.Mechanical, q: Tensor, p: Tensor, expected: Tensor) -> None:
    dq, dp = ham.hamilton_equations((q, p), system)
    torch.testing.assert_close(dq, p, rtol=0, atol=1e-15)
    torch.testing.assert_close(dp, expected, rtol=0, atol=1e-15)
    batched = ham.hamilton_equations((q.expand(2, 3, -1), p.expand(2, 3, -1)), system)
    torch.testing.assert_close(batched[1][1, 2], expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(system.force(q), expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(system.force(q.expand(2, 3, -1))[1, 2], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("mass", [None, vector(2.0, 5.0), torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)])
def test_energy_of_a_mass(mass: Tensor | None) -> None:
    system = ham.Mechanical(lambda q: q.square().sum(), mass)
    q, p = torch.randn(2, 3, 4, 2, generator=torch_generator(0), dtype=F64)
    dense = torch.eye(2, dtype=F64) if mass is None else torch.diag(mass) if mass.ndim == 1 else mass
    expected = 0.5 * torch.einsum("...i,ij,...j->...", p, dense.inverse(), p) + q.square().sum(-1)
    torch.testing.assert_close(ham.compute_hamiltonian(q, p, system), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(ham.compute_hamiltonian(q[0, 0], p[0, 0], system), expected[0, 0], rtol=1e-14, atol=0)


@pytest.mark.slow
def test_leapfrog_keeps_the_modified_energy_of_the_oscillator() -> None:
    h = 0.3
    path = ham.leapfrog(OSCILLATOR, vector(1.0), vector(0.0), dt=h, steps=2000).states
    q, p = path[:, 0], path[:, 1]
    kept = 0.5 * p**2 + 0.5 * q**2 * (1 - h**2 / 4)
    assert (kept - kept[0]).abs().max() < 1e-12
    frequency = math.acos(1 - h**2 / 2) / h
    expected = torch.cos(frequency * h * torch.arange(2001, dtype=F64))
    assert (q - expected).abs().max() < 1e-11  # 2000 steps of rounding


def _worst_energy(walk, system: ham.Mechanical, dt: float) -> float:  # type: ignore[no-untyped-def]
    q, p = vector(1.2), vector(0.3)
    states = walk(system, q, p, dt=dt, steps=round(5 / dt)).states
    energy = ham.compute_hamiltonian(states[:, :1], states[:, 1:], system)
    return float((energy - energy[0]).abs().max())


@pytest.mark.parametrize(("walk", "order"), [
    (ham.leapfrog, 2), (ham.yoshida4, 4), pytest.param(ham.implicit_midpoint, 2, marks=pytest.mark.slow),
])  # fmt: skip
def test_energy_error_falls_with_the_order(walk, order: int) -> None:  # type: ignore[no-untyped-def]
    ratio = _worst_energy(walk, PENDULUM, 0.1) / _worst_energy(walk, PENDULUM, 0.05)
    assert 0.8 * 2**order < ratio < 1.2 * 2**order


def test_energy_does_not_drift() -> None:
    states = ham.leapfrog(PENDULUM, vector(1.2), vector(0.3), dt=0.1, steps=1000).states
    energy = ham.compute_hamiltonian(states[:, :1], states[:, 1:], PENDULUM)
    early, late = (energy[part] - energy[0] for part in (slice(0, 200), slice(-200, None)))
    assert late.abs().max() < 1.05 * early.abs().max()


STEPS = {
    "leapfrog": lambda q, p: ham.leapfrog_step(KEPLER, q, p, 0.1),
    "yoshida4": lambda q, p: ham.yoshida4_step(KEPLER, q, p, 0.1),
    "midpoint": lambda q, p: ham.midpoint_step(lambda a, b: KEPLER(a, b) + 0.1 * a[0] * b[1], q, p, 0.1),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_symplectic(name: str) -> None:
    def step(z: Tensor) -> Tensor:
        return torch.cat(STEPS[name](z[:2], z[2:]))

    slope = jacrev(step)(vector(1.0, 0.2, -0.1, 0.9))
    j = ham.symplectic_matrix(2)
    assert (slope.T @ j @ slope - j).abs().max() < 1e-13


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_reversible(name: str) -> None:
    q, p = vector(1.0, 0.2), vector(-0.1, 0.9)
    if name == "midpoint":  # its energy holds q_0 p_1, which a flip of p does not keep: go back in time instead
        there = STEPS[name](q, p)
        back = ham.midpoint_step(lambda a, b: KEPLER(a, b) + 0.1 * a[0] * b[1], *there, -0.1)
    else:
        there = STEPS[name](q, p)
        back = STEPS[name](there[0], -there[1])
        back = (back[0], -back[1])
    torch.testing.assert_close(torch.cat(back), torch.cat([q, p]), rtol=0, atol=1e-14)


@pytest.mark.slow
def test_kepler_keeps_the_angular_momentum() -> None:
    states = ham.yoshida4(KEPLER, vector(1.0, 0.0), vector(0.0, 1.2), dt=0.02, steps=500, keep_every=50).states
    assert states.shape == (11, 4)
    spin = states[:, 0] * states[:, 3] - states[:, 1] * states[:, 2]
    assert (spin - 1.2).abs().max() < 1e-13


@pytest.mark.slow
def test_geodesics_are_hamiltonian_motion() -> None:
    sphere = metrics.sphere()
    start, velocity = vector(1.1, 0.2), vector(0.4, 0.5)
    momentum = sphere(start) @ velocity
    walk = ham.implicit_midpoint(ham.geodesic_hamiltonian(sphere), start, momentum, dt=0.01, steps=100)
    exact = RiemannianManifold(sphere, 2).geodesic_flow(start, velocity, vector(1.0))
    assert (walk.states[-1, :2] - exact.states[0, 0]).abs().max() < 1e-4  # order two at 0.01
    energy = ham.compute_hamiltonian(walk.states[:, :2], walk.states[:, 2:], ham.geodesic_hamiltonian(sphere))
    assert (energy - energy[0]).abs().max() < 1e-5


def _coordinate(i: int):  # type: ignore[no-untyped-def]
    return lambda z: z[i]


def test_canonical_brackets() -> None:
    z = torch.randn(6, generator=torch_generator(1), dtype=F64)
    table = torch.tensor([[ham.poisson_bracket(_coordinate(i), _coordinate(j))(z) for j in range(6)] for i in range(6)])
    assert torch.equal(table.to(F64), ham.symplectic_matrix(3))


def _spin(axis: int):  # type: ignore[no-untyped-def]
    return lambda z: torch.linalg.cross(z[:3], z[3:])[axis]


def test_angular_momentum_closes() -> None:
    z = torch.randn(6, generator=torch_generator(2), dtype=F64)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        torch.testing.assert_close(ham.poisson_bracket(_spin(i), _spin(j))(z), _spin(k)(z), rtol=0, atol=1e-14)
    assert ham.poisson_bracket(_spin(0), _spin(0))(z).abs() < 1e-15


@settings(max_examples=15, derandomize=True, deadline=None)
@given(st.integers(0, 2**32))
def test_jacobi_identity(seed: int) -> None:
    weights = torch.randn(3, 4, 4, generator=torch_generator(seed, "weights"), dtype=F64)
    z = torch.randn(4, generator=torch_generator(seed, "point"), dtype=F64)
    f, g, h = (lambda x, w=w: torch.sin(x @ w @ x) + (w[0] @ x) ** 3 for w in weights)
    bracket = ham.poisson_bracket
    terms = [bracket(a, bracket(b, c))(z) for a, b, c in ((f, g, h), (g, h, f), (h, f, g))]
    assert sum(terms).abs() <= 1e-12 * (1 + max(t.abs() for t in terms))  # relative: cubes and squares grow large


def test_symplectic_form() -> None:
    u, v = torch.randn(2, 5, 6, generator=torch_generator(3), dtype=F64)
    j = ham.symplectic_matrix(3)
    torch.testing.assert_close(
        ham.symplectic_form((u, v)), torch.einsum("bi,ij,bj->b", u, j, v), rtol=1e-14, atol=1e-14
    )
    assert torch.equal(ham.symplectic_form((u, v)), -ham.symplectic_form((v, u)))
    assert torch.linalg.det(j) == 1.0


def test_leapfrog_gradients() -> None:
    def end(q: Tensor, p: Tensor) -> Tensor:
        return ham.leapfrog(KEPLER, q, p, dt=0.1, steps=3).states[-1]

    start = (vector(1.0, 0.2).requires_grad_(), vector(-0.1, 0.9).requires_grad_())
    assert torch.autograd.gradcheck(end, start)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ham.Mechanical(lambda q: q.sum(), vector(1.0, -2.0)), "-2"),
        (lambda: ham.Mechanical(lambda q: q.sum(), torch.diag(vector(1.0, 0.0))), "mass"),
        (lambda: ham.leapfrog(OSCILLATOR, vector(1.0), vector(0.0), dt=-0.1, steps=3), "-0.1"),
        (lambda: ham.leapfrog(KEPLER, vector(0.0, 0.0), vector(0.0, 0.0), dt=0.1, steps=3), "nan"),
        (lambda: ham.compute_hamiltonian(vector(1.0), vector(0.0, 1.0), OSCILLATOR), "pair"),
        (lambda: ham.compute_hamiltonian(vector(0.0, 0.0), vector(0.0, 1.0), KEPLER), "energy is -inf"),
        (lambda: ham.symplectic_form((vector(1.0, 2.0, 3.0), vector(1.0, 2.0, 3.0))), "3 and 3"),
        (lambda: ham.midpoint_step(OSCILLATOR, vector(1.0), vector(0.0), 5.0), "settle"),
    ],
)
def test_bad_input(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GeometryError, match=says):
        call()
