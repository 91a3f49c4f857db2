"""Quantum states against closed forms, against QuTiP, and against what every state must obey."""

import sys
from math import cos, log, pi, sin, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import GeometryError, UnknownName
from toolkit.geometry.core.quantum.state_space import (
    HilbertSpace,
    berry_curvature,
    berry_flux,
    bures_distance,
    compute_entropy,
    concurrence,
    density_matrix,
    entanglement_witness,
    evolution_operator,
    evolve_state,
    fidelity,
    fubini_study_distance,
    fubini_study_metric,
    measure_observable,
    negativity,
    prepare_state,
    quantum_geometric_tensor,
)
from toolkit.geometry.core.quantum.state_space.entanglement import chsh_maximum
from toolkit.rng import torch_generator

C, R = torch.complex128, torch.float64
X, Y, Z = (torch.tensor(m, dtype=C) for m in ([[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]))
BELL = torch.tensor([1, 0, 0, 1], dtype=C) / sqrt(2)
seeds = st.integers(0, 10_000)
few = settings(derandomize=True, deadline=None, max_examples=15)


def ket(seed: int, d: int) -> torch.Tensor:
    values = torch.randn(2, d, generator=torch_generator(seed, "ket"), dtype=R)
    return torch.nn.functional.normalize(torch.complex(*values), dim=0)


def density(seed: int, d: int) -> torch.Tensor:
    a = torch.complex(*torch.randn(2, d, d, generator=torch_generator(seed, "rho"), dtype=R))
    rho = a @ a.mH
    return rho / rho.diagonal().sum()


def hermitian(seed: int, d: int) -> torch.Tensor:
    a = torch.complex(*torch.randn(2, d, d, generator=torch_generator(seed, "h"), dtype=R))
    return (a + a.mH) / 2


def werner(p: float) -> torch.Tensor:
    return p * density_matrix(BELL) + (1 - p) * torch.eye(4, dtype=C) / 4


def damped_bell(gamma: float) -> torch.Tensor:
    kraus = [[[1, 0], [0, sqrt(1 - gamma)]], [[0, sqrt(gamma)], [0, 0]]]
    whole = [torch.kron(torch.tensor(k, dtype=C), torch.eye(2, dtype=C)) for k in kraus]
    return sum(k @ density_matrix(BELL) @ k.mH for k in whole)


def bloch(angles: torch.Tensor) -> torch.Tensor:
    return torch.stack([(angles[0] / 2).cos() + 0j, (angles[0] / 2).sin() * torch.exp(1j * angles[1])])


def test_amplitudes_are_padded_and_normalised_at_any_scale():
    for scale in (1.0, 1e-200, 1e200):
        got = prepare_state(scale * torch.tensor([[3.0, 0.0, 4.0]], dtype=R))
        assert torch.allclose(got, torch.tensor([[0.6, 0, 0.8, 0]], dtype=C), atol=1e-15)


def test_angles_make_product_states_without_entropy():
    state = prepare_state(torch.tensor([[0.3, 1.2, 2.0]], dtype=R), "angle")
    expected = [cos(0.15) * cos(0.6) * cos(1.0), sin(0.15) * sin(0.6) * sin(1.0)]
    assert state.shape == (1, 8)
    assert state[0, [0, 7]].real.tolist() == pytest.approx(expected, abs=1e-15)
    for qubit in range(3):
        reduced = HilbertSpace((2, 2, 2)).partial_trace(density_matrix(state), [qubit])
        assert compute_entropy(reduced).abs().max() < 1e-12


def test_thermal_states_have_gibbs_populations_and_do_not_overflow():
    energies = torch.tensor([0.0, 1.0, 2.5], dtype=R)
    rho = prepare_state(torch.diag(energies), "thermal", beta=0.7)
    assert torch.allclose(rho.diagonal().real, torch.softmax(-0.7 * energies, 0), atol=1e-14)
    cold = prepare_state(torch.diag(energies + 1e4).to(C), "thermal", beta=50.0)
    assert cold[0, 0].real == pytest.approx(1.0, abs=1e-12)


@few
@given(seeds, st.integers(2, 5))
def test_evolution_is_unitary_a_group_and_keeps_energy(seed, d):
    h, psi = hermitian(seed, d), ket(seed, d)
    s, t = torch.tensor(0.4, dtype=R), torch.tensor(1.1, dtype=R)
    u = evolution_operator(h, s + t)
    assert (u.mH @ u - torch.eye(d)).abs().max() < 1e-12
    assert (u - evolution_operator(h, t) @ evolution_operator(h, s)).abs().max() < 1e-12
    before, after = measure_observable(psi, h), measure_observable(evolve_state(psi, h, t), h)
    assert after.mean == pytest.approx(float(before.mean), abs=1e-12)


def test_rabi_oscillation():
    omega, detuning = 1.3, 0.6
    times = torch.linspace(0, 8, 40, dtype=R)
    states = evolve_state(torch.tensor([1, 0], dtype=C), (omega * X - detuning * Z) / 2, times)
    rabi = sqrt(omega**2 + detuning**2)
    expected = omega**2 / rabi**2 * (rabi * times / 2).sin().square()
    assert (states[:, 1].abs().square() - expected).abs().max() < 1e-12


def test_many_times_equal_single_ones_for_batches_of_kets_and_densities():
    h, psi = hermitian(3, 4), torch.stack([ket(1, 4), ket(2, 4)])
    times = torch.tensor([0.1, 0.7, 2.0], dtype=R)
    together = evolve_state(psi, h, times)
    assert together.shape == (3, 2, 4)
    rho = evolve_state(density_matrix(psi), h, times, density=True)
    for k, t in enumerate(times):
        assert torch.allclose(together[k], evolve_state(psi, h, t), atol=1e-13)
        assert torch.allclose(rho[k], density_matrix(together[k]), atol=1e-13)


def test_moving_hamiltonians_converge_with_order_two():
    def h(t):
        return X + t * Z

    psi, end = torch.tensor([1, 0], dtype=C), torch.tensor(1.5, dtype=R)
    fine = evolve_state(psi, h, end, steps=640)
    coarse, half = ((evolve_state(psi, h, end, steps=n) - fine).norm() for n in (20, 40))
    assert coarse / half == pytest.approx(4, rel=0.05)


def test_evolution_is_differentiable_where_levels_meet():
    h = torch.eye(2, dtype=C).requires_grad_()  # degenerate: the derivative of eigenvectors would be infinite
    mean = evolve_state(torch.tensor([1, 0], dtype=C), h, torch.tensor(0.5, dtype=R)).real.sum()
    (slope,) = torch.autograd.grad(mean, h)
    assert slope.isfinite().all()


def test_ehrenfest():
    h, a, psi = hermitian(1, 3), hermitian(2, 3), ket(5, 3)
    time = torch.tensor(0.3, dtype=R)
    mean = lambda t: measure_observable(evolve_state(psi, h, t), a).mean  # noqa: E731
    slope = (mean(time + 1e-5) - mean(time - 1e-5)) / 2e-5
    moved = evolve_state(psi, h, time)
    commutator = moved.conj() @ ((h @ a - a @ h) @ moved) * 1j
    assert slope == pytest.approx(float(commutator.real), abs=1e-8)


@few
@given(seeds, st.integers(2, 5))
def test_outcomes_are_a_distribution_with_that_mean_and_variance(seed, d):
    a, rho = hermitian(seed, d), density(seed, d)
    got = measure_observable(rho, a, density=True)
    assert got.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert (got.probabilities * got.outcomes).sum() == pytest.approx(float(got.mean), abs=1e-11)
    assert (got.probabilities * (got.outcomes - got.mean) ** 2).sum() == pytest.approx(float(got.variance), abs=1e-10)


def test_eigenstates_do_not_spread():
    _, vectors = torch.linalg.eigh(hermitian(4, 4))
    assert measure_observable(vectors.mT, hermitian(4, 4)).variance.max() < 1e-24


def test_entropies_of_known_states():
    half = HilbertSpace((2, 2)).partial_trace(density_matrix(BELL), [1])
    w = torch.zeros(8, dtype=C)
    w[[1, 2, 4]] = 1 / sqrt(3)
    assert compute_entropy(half) == pytest.approx(log(2), abs=1e-14)
    assert compute_entropy(HilbertSpace((2, 2, 2)).partial_trace(density_matrix(w), [0])) == pytest.approx(
        log(3) - 2 / 3 * log(2), abs=1e-14
    )
    for d in (2, 5):
        mixed = torch.eye(d, dtype=C) / d
        for kind, alpha, expected in (
            ("von_neumann", 2, log(d)), ("renyi", 0.5, log(d)), ("renyi", 3, log(d)),
            ("renyi", float("inf"), log(d)), ("renyi", 0, log(d)), ("linear", 2, 1 - 1 / d),
        ):  # fmt: skip
            assert compute_entropy(mixed, kind, alpha=alpha) == pytest.approx(expected, abs=1e-13)
            assert compute_entropy(density_matrix(ket(0, d)), kind, alpha=alpha) == pytest.approx(0, abs=1e-12)


@few
@given(seeds, st.integers(2, 5))
def test_entropy_bounds_and_order(seed, d):
    rho = density(seed, d)
    renyi = [float(compute_entropy(rho, "renyi", alpha=a)) for a in (0.5, 2.0, float("inf"))]
    entropy = float(compute_entropy(rho))
    assert 0 <= renyi[2] <= renyi[1] + 1e-12 <= entropy + 2e-12 <= renyi[0] + 3e-12 <= log(d) + 4e-12


def test_entropy_of_a_pure_state_has_a_finite_gradient():
    weight = torch.tensor([1.0, 0.0], dtype=R, requires_grad=True)
    compute_entropy(torch.diag(weight).to(C)).backward()
    assert weight.grad.isfinite().all()


def test_witnesses_of_bell_werner_and_damped_states():
    bell = entanglement_witness(density_matrix(BELL), (2, 2))
    assert [float(bell.negativity), float(bell.log_negativity), float(bell.concurrence)] == pytest.approx([0.5, 1, 1])
    assert bell.chsh_maximum == pytest.approx(2 * sqrt(2), abs=1e-13)
    assert bell.schmidt_rank == 2
    for p in (0.1, 1 / 3, 0.6, 1.0):
        assert negativity(werner(p), (2, 2)) == pytest.approx(max(0, (3 * p - 1) / 4), abs=1e-14)
        assert concurrence(werner(p)) == pytest.approx(max(0, (3 * p - 1) / 2), abs=1e-14)
    for gamma in (0.0, 0.3, 0.9):
        found = entanglement_witness(damped_bell(gamma), (2, 2))
        assert found.concurrence == pytest.approx(sqrt(1 - gamma), abs=1e-13)
        assert found.negativity == pytest.approx((1 - gamma) / 2, abs=1e-13)
    assert entanglement_witness(werner(0.6), (2, 2)).schmidt_rank == 0
    larger = entanglement_witness(density_matrix(ket(0, 8)), (2, 4))
    assert larger.schmidt_rank == 2
    assert larger.concurrence is None
    assert larger.chsh_maximum is None
    product = torch.kron(ket(1, 2), ket(2, 4))
    assert entanglement_witness(density_matrix(product), (2, 2, 2)).schmidt_rank == 1


@pytest.fixture(scope="module")
def qutip():
    """It imports setuptools, which fails where another test has come upon Python's own distutils before."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.version_info < (3, 12):  # later ones have none
            patch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
        return pytest.importorskip("qutip")


@pytest.mark.slow
@few
@given(seeds)
def test_random_states_agree_with_qutip(qutip, seed):
    rho = density(seed, 4)
    theirs = qutip.Qobj(rho.numpy(), dims=[[2, 2], [2, 2]])
    assert compute_entropy(rho) == pytest.approx(qutip.entropy_vn(theirs), abs=1e-11)
    assert concurrence(rho) == pytest.approx(qutip.concurrence(theirs), abs=1e-7)  # theirs takes roots of rounding
    assert negativity(rho, (2, 2)) == pytest.approx(qutip.negativity(theirs, 0), abs=1e-11)
    reduced = HilbertSpace((2, 2)).partial_trace(rho, [0])
    assert torch.allclose(reduced, torch.from_numpy(theirs.ptrace(0).full()), atol=1e-12)
    other = density(seed + 1, 4)
    root = qutip.fidelity(theirs, qutip.Qobj(other.numpy(), dims=[[2, 2], [2, 2]]))
    assert fidelity(rho, other, density=True) == pytest.approx(root**2, abs=1e-7)
    h = hermitian(seed, 4)
    moved = (-1j * qutip.Qobj(h.numpy()) * 0.8).expm() * qutip.Qobj(ket(seed, 4).numpy())
    ours = evolve_state(ket(seed, 4), h, torch.tensor(0.8, dtype=R))
    assert torch.allclose(ours, torch.from_numpy(moved.full()[:, 0]), atol=1e-11)


@few
@given(seeds)
def test_partial_operations_of_three_factors(seed):
    space, rho = HilbertSpace((2, 3, 2)), density(seed, 12)
    assert torch.allclose(
        space.partial_trace(rho, [0]),
        HilbertSpace((2, 3)).partial_trace(space.partial_trace(rho, [0, 1]), [0]),
        atol=1e-14,
    )
    assert torch.equal(space.partial_transpose(space.partial_transpose(rho, [1]), [1]), rho)
    assert torch.equal(space.partial_transpose(rho, [0, 1, 2]), rho.mT)
    assert torch.equal(space.partial_trace(rho, [0, 1, 2]), rho)


@few
@given(seeds)
def test_separable_states_keep_bells_bound(seed):
    product = torch.kron(density(seed, 2), density(seed + 1, 2))
    assert chsh_maximum(product) <= 2 + 1e-12
    assert negativity(product, (2, 2)) < 1e-12


def test_geometric_tensor_of_a_qubit_and_its_flux():
    theta = torch.tensor([[0.4, 0.1], [1.3, -2.0]], dtype=R)
    q = quantum_geometric_tensor(bloch, theta)
    for point, tensor in zip(theta, q, strict=True):
        expected = torch.diag(torch.tensor([1.0, sin(point[0]) ** 2], dtype=R)) / 4
        assert (tensor.real - expected).abs().max() < 1e-12
        assert abs(tensor[0, 1].imag) == pytest.approx(sin(point[0]) / 4, abs=1e-12)
    gauge = quantum_geometric_tensor(lambda a: 3 * torch.exp(1j * a[0] * a[1]) * bloch(a), theta)
    assert (gauge - q).abs().max() < 1e-12
    assert torch.equal(fubini_study_metric(bloch, theta), q.real)
    axes = torch.linspace(0, pi, 31, dtype=R), torch.linspace(0, 2 * pi, 31, dtype=R)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    flux = berry_flux(torch.vmap(torch.vmap(bloch))(grid))
    assert flux.sum() == pytest.approx(-2 * pi, abs=1e-10)
    middle = (grid[1:, 1:] + grid[:-1, :-1]) / 2
    area = (pi / 30) * (2 * pi / 30)
    small = berry_curvature(bloch, middle)[..., 0, 1] * area
    assert (flux - small).abs().max() < 5e-3 * small.abs().max()  # of second order in steps of 0.1 and 0.2


@few
@given(seeds, st.integers(2, 5))
def test_distances_are_metrics(seed, d):
    a, b, c = (ket(seed + k, d) for k in range(3))
    assert fidelity(a, a) == pytest.approx(1, abs=1e-13)
    assert fubini_study_distance(a, c) <= fubini_study_distance(a, b) + fubini_study_distance(b, c) + 1e-12
    assert fubini_study_distance(a, b).cos() ** 2 == pytest.approx(float(fidelity(a, b)), abs=1e-12)
    r, s, t = (density(seed + k, d) for k in range(3))
    assert bures_distance(r, t) <= bures_distance(r, s) + bures_distance(s, t) + 1e-12
    assert bures_distance(r, s) ** 2 == pytest.approx(2 - 2 * float(fidelity(r, s, density=True)) ** 0.5, abs=1e-10)


def test_tiny_distances_keep_their_digits_and_gradients():
    a = torch.tensor([1, 0], dtype=C)
    for angle in (1e-9, 1e-5):
        b = torch.tensor([cos(angle), sin(angle)], dtype=C)
        assert fubini_study_distance(a, b) == pytest.approx(angle, rel=1e-9)
        rho, sigma = (torch.diag(torch.tensor(p, dtype=C)) for p in ([0.5, 0.5], [0.5 + angle, 0.5 - angle]))
        assert bures_distance(rho, sigma) == pytest.approx(angle, rel=1e-5)
    leaf = a.clone().requires_grad_()
    fubini_study_distance(leaf, a).backward()
    assert torch.view_as_real(leaf.grad).isfinite().all()


def test_gradients_of_what_is_differentiable():
    a = torch.randn(2, 4, 4, generator=torch_generator(0, "grad"), dtype=R).requires_grad_()

    def state(parts):
        root = torch.complex(*parts)
        rho = root @ root.mH
        return rho / rho.diagonal().sum().real

    observable, other = hermitian(3, 4), density(4, 4)
    for f in (
        compute_entropy,
        lambda rho: compute_entropy(rho, "renyi", alpha=3.0),
        lambda rho: negativity(rho, (2, 2)),
        lambda rho: measure_observable(rho, observable, density=True).variance,
        lambda rho: fidelity(rho, other, density=True),
        lambda rho: evolve_state(rho, observable, torch.tensor(0.3, dtype=R), density=True).real,
    ):
        assert torch.autograd.gradcheck(lambda parts, f=f: f(state(parts)), a)
    x = torch.rand(3, dtype=R, generator=torch_generator(0, "x")).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: prepare_state(v).abs(), x)


def test_single_precision_stays_single():
    psi = prepare_state(torch.tensor([1.0, 2.0], dtype=torch.float32))
    assert psi.dtype == torch.complex64
    assert compute_entropy(density_matrix(psi)).abs() < 1e-5


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: prepare_state(torch.zeros(4, dtype=R)), "zeros"),
        (lambda: prepare_state(torch.tensor([float("nan")])), "nan"),
        (lambda: prepare_state(torch.zeros(0)), r"\(0,\)"),
        (lambda: prepare_state(torch.zeros(2, dtype=C), "angle"), "complex128"),
        (lambda: prepare_state(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), "thermal"), "Hermitian"),
        (lambda: measure_observable(BELL[:2] * sqrt(2), torch.tensor([[0, 1], [0, 0]], dtype=C)), "adjoint by 1"),
        (lambda: measure_observable(BELL[:2], X), "norm 0.707"),
        (lambda: measure_observable(BELL, X), "dimension 2 on a state of dimension 4"),
        (lambda: measure_observable(BELL.real, X), "float64"),
        (lambda: density_matrix(torch.tensor(1.0, dtype=C)), r"\(\)"),
        (lambda: compute_entropy(2 * density_matrix(BELL)), "trace 2"),
        (lambda: compute_entropy(torch.diag(torch.tensor([1.5, -0.5], dtype=C))), "eigenvalue -0.5"),
        (lambda: compute_entropy(torch.eye(2, dtype=C) / 2, "renyi", alpha=1), "order 1"),
        (lambda: entanglement_witness(werner(0.5), (4,)), "one factor"),
        (lambda: entanglement_witness(werner(0.5), (2, 3)), r"\(2, 3\)"),
        (lambda: HilbertSpace((2, 0)), r"\(2, 0\)"),
        (lambda: HilbertSpace((2, 2)).partial_trace(werner(0.5), [2]), "factor 2"),
        (lambda: evolve_state(BELL, X, torch.tensor(1.0)), "dimension 2 on a state of dimension 4"),
        (lambda: evolve_state(BELL, X, torch.tensor(float("inf"))), "inf"),
        (lambda: evolution_operator(lambda t: X, torch.tensor([1.0, 2.0])), r"\(2,\)"),
        (lambda: fidelity(BELL, BELL[:2]), "dimensions 4 and 2"),
        (lambda: quantum_geometric_tensor(lambda a: 0 * bloch(a), torch.zeros(2, dtype=R)), "nan"),
        (lambda: berry_flux(torch.eye(4, dtype=C).reshape(2, 2, 4)), "overlap by 0"),
    ],
)  # fmt: skip
def test_what_is_no_state_is_refused_with_its_value(call, says):
    with pytest.raises(GeometryError, match=says):
        call()


def test_unknown_names_are_refused():
    with pytest.raises(UnknownName, match="angel"):
        prepare_state(torch.ones(2), "angel")
    with pytest.raises(UnknownName, match="shannon"):
        compute_entropy(werner(0.5), "shannon")
