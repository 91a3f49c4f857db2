"""What is not finite, or has no meaning, is refused where it enters; signs of the two Chern numbers agree."""

from __future__ import annotations

import math

import pytest
import torch

from toolkit.errors import GeometryError
from toolkit.geometry.checking import all_finite, is_prime, require_stochastic
from toolkit.geometry.core.crystal.refraction import chern_number, plane_wave_bands, structure_factor
from toolkit.geometry.core.crystal.scale import ising_correlation_length, rips_filtration
from toolkit.geometry.core.patterns.arithmetic import artin_mazur_reciprocal, ihara_reciprocal, l_function
from toolkit.geometry.core.patterns.cohomology import (
    exterior_derivative,
    gaussian_transfer_entropy,
    grid_torus,
    lattice_chern_number,
)
from toolkit.geometry.core.patterns.fiber_bundle import GraphBundle
from toolkit.geometry.core.patterns.riemannian import RiemannianManifold, metrics
from toolkit.geometry.core.quantum.path_integral import PathIntegral
from toolkit.geometry.core.quantum.state_space import evolve_state, prepare_state
from toolkit.geometry.grids import grid_derivative
from toolkit.geometry.linear import solve
from toolkit.geometry.neural.attention.pattern_dynamics import (
    pattern_growth,
    reaction_diffusion,
    riccati_gain,
    schnakenberg,
    stability_analysis,
)
from toolkit.geometry.neural.flow.hamiltonian import Mechanical
from toolkit.geometry.types import Crystal, GridField, Lattice, Path, Trajectory
from toolkit.geometry.validation.geometric import verify_compatibility, verify_maximum_principle

F64 = torch.float64
NAN = math.nan
SPHERE = RiemannianManifold(metrics.sphere(), 2)
POINT = torch.tensor([0.7, 0.2], dtype=F64)
LINE = Lattice(torch.eye(1, dtype=F64))
EDGE = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=F64)
WELL = PathIntegral(1.0, lambda x: (x * x).sum())
Z = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.complex128))
KET = torch.tensor([1.0, 0.0], dtype=torch.complex128)
FRAMES = GraphBundle(2, torch.tensor([[0, 1]]), torch.eye(2, dtype=F64)[None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64, torch.complex128])
def test_what_is_not_finite_is_seen_wherever_it_is(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    values = torch.full((3, 5), largest, dtype=dtype)  # their sum overflows
    assert all_finite(values)
    assert all_finite(values[:0])
    assert all_finite(torch.zeros(7, dtype=dtype, requires_grad=True))
    for wrong in ([NAN], [math.inf], [-math.inf], [math.inf, -math.inf]):
        for first in (values, torch.zeros_like(values)):
            held = first.clone()
            held.view(-1)[4 : 4 + len(wrong)] = torch.tensor(wrong, dtype=dtype)
            assert not all_finite(held)


def nans(*shape: int) -> torch.Tensor:
    return torch.full(shape, NAN, dtype=F64)


def atom(positions: torch.Tensor) -> Crystal:
    return Crystal(LINE, positions, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    "call",
    [
        lambda: SPHERE.metric_tensor(POINT, (nans(2), POINT)),
        lambda: SPHERE.curvature_tensor(POINT).sectional(nans(2), POINT),
        lambda: SPHERE.geodesic_flow(POINT, POINT, torch.tensor([0.0, NAN], dtype=F64)),
        lambda: exterior_derivative(grid_torus(3, 3), nans(27), 1),
        lambda: gaussian_transfer_entropy(nans(20), torch.arange(20, dtype=F64)),
        lambda: artin_mazur_reciprocal(EDGE, nans()),
        lambda: l_function("dirichlet", [0, 1, 0, -1], NAN),
        lambda: FRAMES.parallel_transport(nans(2), [0, 1]),
        lambda: FRAMES.transport_attention(torch.eye(2, dtype=F64), nans(2, 2)),
        lambda: Path(torch.zeros(2, 1), torch.tensor([0.0, NAN])),
        lambda: evolve_state(KET, Z, torch.ones((), dtype=F64), hbar=NAN),
        lambda: prepare_state(Z, "thermal", beta=NAN),
        lambda: WELL.evolve(GridField(torch.ones(8, dtype=torch.complex128), (0.1,), (True,)), NAN, 3),
        lambda: atom(nans(1, 1)),
        lambda: structure_factor(atom(torch.zeros(1, 1, dtype=F64)), torch.tensor([[1]]), {0: NAN}),
        lambda: plane_wave_bands(LINE, {(1,): NAN, (-1,): NAN}, torch.zeros(1, 1, dtype=F64)),
        lambda: rips_filtration(torch.zeros(3, 2), radius=NAN),
        lambda: grid_derivative(GridField(nans(8), (1.0,), (True,)), 0),
        lambda: stability_analysis(torch.tensor([1.0, 0.9], dtype=F64), torch.ones(2, dtype=F64),
                                   schnakenberg(0.1, 0.9), nans(3)),
        lambda: riccati_gain(EDGE, nans(2, 2), EDGE, torch.eye(2, dtype=F64)),
        lambda: pattern_growth(torch.ones(1, 8, 8), torch.ones(1), lambda u: u * NAN),
        lambda: verify_maximum_principle(Trajectory(nans(3, 4), torch.arange(3.0))),
        lambda: verify_compatibility(metrics.sphere(), lambda x: x.new_full((2, 2, 2), NAN), POINT[None]),
        lambda: require_stochastic(nans(2, 2)),
    ],
)  # fmt: skip
def test_nan_is_refused_by_value(call):
    with pytest.raises(GeometryError, match="nan"):
        call()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ihara_reciprocal(EDGE, torch.ones((), dtype=F64)), "reciprocal zeta"),  # 0/0 on a tree
        (lambda: ising_correlation_length(torch.tensor(-1.0)), "coupling -1"),
        (lambda: WELL.propagator(POINT[:1], POINT[:1], math.inf), "time inf"),
        (lambda: Mechanical(lambda q: q.sum(), torch.tensor([[1.0, 5.0], [0.0, 1.0]])), "differs from its transpose"),
    ],
)
def test_what_has_no_meaning_is_refused(call, says):
    with pytest.raises(GeometryError, match=says):
        call()


def test_a_diffusivity_concentrates_if_its_symmetric_part_does():
    # eigenvalues 1 and 1, yet waves along (1, -1) grow: k.D.k < 0
    sheared = torch.tensor([[[1.0, 10.0], [0.0, 1.0]]], dtype=F64)
    with pytest.raises(GeometryError, match="eigenvalue -4"):
        reaction_diffusion(torch.ones(1, 8, 8, dtype=F64), sheared, lambda u: 0 * u, 0.01, 1)


def test_rotating_cross_diffusion_is_held_to_the_step_that_keeps_it_bounded():
    turning = torch.tensor([[1.0, 2.0], [-2.0, 1.0]], dtype=F64)  # eigenvalues 1 +- 2i: |D|^2 / Re D = 5
    board = torch.ones(2, 8, 8, dtype=F64) * (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8))
    with pytest.raises(GeometryError, match="is unstable"):
        reaction_diffusion(board, turning, lambda u: 0 * u, 0.06, 1, "explicit")
    kept = reaction_diffusion(board, turning, lambda u: 0 * u, 0.05, 200, "explicit").states[-1]
    assert float(kept.norm()) <= float(board.norm()) * (1 + 1e-12)


def test_complex_systems_are_solved():
    matrix = torch.tensor([[2.0 + 1j, 1j], [1.0, 3.0 - 2j]], dtype=torch.complex128)
    right = torch.tensor([[1.0 + 0j], [2j]], dtype=torch.complex128)
    torch.testing.assert_close(solve(matrix, right), torch.linalg.solve(matrix, right))


def test_primes_against_a_sieve():
    sieve = [n for n in range(400) if n > 1 and not any(n % d == 0 for d in range(2, n))]
    assert [n for n in range(-3, 400) if is_prime(n)] == sieve


@pytest.mark.parametrize("mass", [-1.0, 1.0, 3.0])
def test_the_two_chern_numbers_differ_in_sign(mass):
    x, y, z = (
        torch.tensor(s, dtype=torch.complex128) for s in ([[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]])
    )
    hops = {(0, 0): mass * z, (1, 0): (x / 1j + z) / 2, (0, 1): (y / 1j + z) / 2}
    hops |= {(-a, -b): hop.mH for (a, b), hop in hops.items()}
    plane = Lattice(torch.eye(2, dtype=F64))
    layer = Crystal(plane, torch.zeros(2, 2, dtype=F64), torch.tensor([0, 1]), hoppings=hops)
    k = 2 * math.pi * torch.arange(16, dtype=F64) / 16
    kx, ky = (t[..., None, None] for t in torch.meshgrid(k, k, indexing="ij"))
    frames = torch.linalg.eigh(kx.sin() * x + ky.sin() * y + (mass + kx.cos() + ky.cos()) * z)[1][..., 0]
    assert lattice_chern_number(frames) == -chern_number(layer)
    assert abs(lattice_chern_number(frames)) == (abs(mass) < 2)
