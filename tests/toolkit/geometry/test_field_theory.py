"""A scalar field on a lattice: its operator, its potential, and what hybrid Monte Carlo draws."""

import pytest
import torch

from toolkit.errors import GeometryError
from toolkit.geometry.core.quantum.field_theory import LatticeScalarField
from toolkit.rng import torch_generator

R = torch.float64


def test_the_propagator_inverts_the_lattice_operator():
    lattice = LatticeScalarField((4, 6), mass=0.7)
    operator = torch.func.hessian(lattice.action)(torch.zeros(4, 6, dtype=R)).reshape(24, 24)
    column = torch.zeros(24, dtype=R)
    column[0] = 1
    assert (operator @ lattice.free_propagator().flatten() - column).abs().max() < 1e-12


def test_the_force_is_minus_the_slope_of_the_action():
    lattice = LatticeScalarField((3, 2, 4), mass=0.5, coupling=2.0)
    phi = torch.randn(3, 3, 2, 4, generator=torch_generator(0, "phi"), dtype=R).requires_grad_()
    (slope,) = torch.autograd.grad(lattice.action(phi).sum(), phi)
    assert (lattice.force(phi.detach()) + slope).abs().max() < 1e-13


def test_hybrid_monte_carlo_reproduces_the_free_field():
    lattice = LatticeScalarField((4, 4), mass=0.8)
    drawn = lattice.sample(torch_generator(1, "hmc"), count=60, chains=128, step=0.25, steps=6, warm_up=20)
    assert drawn.fields.shape == (60, 128, 4, 4)
    weights = torch.exp(-drawn.energy_errors).mean(0)  # chains are independent, trajectories of a chain are not
    assert abs(float(weights.mean()) - 1) < 4 * float(weights.std()) / 128**0.5
    squares = drawn.fields.square().mean((0, 2, 3))
    expected = float(lattice.free_propagator()[0, 0])
    assert abs(float(squares.mean()) - expected) < 4 * float(squares.std()) / 128**0.5
    assert drawn.acceptance > 0.8


def test_coupling_narrows_the_field_and_equal_seeds_give_equal_fields():
    fields = [
        LatticeScalarField((3, 3), 0.8, coupling).sample(torch_generator(2, "hmc"), count=20, chains=64).fields
        for coupling in (0.0, 6.0, 6.0)
    ]
    assert fields[1].square().mean() < fields[0].square().mean()
    assert torch.equal(fields[1], fields[2])


def test_energy_errors_of_leapfrog_are_of_second_order():
    lattice = LatticeScalarField((4, 4), mass=0.8, coupling=1.0)
    sizes = [
        float(
            lattice.sample(torch_generator(3, "hmc"), count=1, chains=64, step=h, steps=n, warm_up=0)
            .energy_errors.abs()
            .mean()
        )
        for h, n in ((0.1, 10), (0.05, 20))
    ]
    assert sizes[0] / sizes[1] == pytest.approx(4, rel=0.2)


def test_slope_of_the_one_loop_potential_is_the_tadpole():
    lattice = LatticeScalarField((6, 6), mass=0.9, coupling=1.5)
    phi = torch.tensor([0.0, 0.7], dtype=R, requires_grad=True)
    (slope,) = torch.autograd.grad(lattice.effective_potential(phi).sum(), phi)
    for value, got in zip(phi.tolist(), slope.tolist(), strict=True):
        heavier = LatticeScalarField((6, 6), mass=(0.81 + 0.75 * value**2) ** 0.5)
        loop = 1.5 * value / 2 * float(heavier.free_propagator()[0, 0])
        assert got == pytest.approx(0.81 * value + 0.25 * value**3 + loop, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: LatticeScalarField((), 1.0), r"shape \(\)"),
        (lambda: LatticeScalarField((0, 3), 1.0), r"\(0, 3\)"),
        (lambda: LatticeScalarField((3,), 1.0, -1.0), "coupling -1"),
        (lambda: LatticeScalarField((3,), float("nan")), "mass nan"),
        (lambda: LatticeScalarField((3,), 0.0).free_propagator(), "mass 0"),
        (lambda: LatticeScalarField((3,), 0.0, 1.0).effective_potential(torch.zeros(1)), "V'' is 0"),
        (lambda: LatticeScalarField((3,), 1.0).action(torch.zeros(4)), r"\(4,\)"),
        (lambda: LatticeScalarField((3,), 1.0).sample(torch_generator(0, "x"), count=0), "0 trajectories"),
        (lambda: LatticeScalarField((3,), 1.0, 24.0).sample(torch_generator(0, "x"), count=5, step=30.0), "nan|inf"),
    ],
)  # fmt: skip
def test_lattices_without_an_answer_are_refused(call, says):
    with pytest.raises(GeometryError, match=says):
        call()
