"""Checks of states and patterns: each with one that passes and one that fails."""

from math import sqrt

import pytest
import torch

from toolkit.errors import GeometryError
from toolkit.geometry.core.quantum.state_space import evolve_state, prepare_state
from toolkit.geometry.neural.attention.pattern_dynamics import reaction_diffusion, schnakenberg, stability_analysis
from toolkit.geometry.types import CheckReport
from toolkit.geometry.validation.pattern import check_pattern_stability, check_scale_invariance, verify_symmetries
from toolkit.geometry.validation.quantum import (
    check_entanglement_monotonicity,
    check_normalization,
    verify_uncertainty_relations,
)
from toolkit.geometry.validation.quantum.state import LocalRound
from toolkit.geometry.validation.reports import combine, describe
from toolkit.rng import torch_generator

C, R = torch.complex128, torch.float64
X, Y, Z = (torch.tensor(m, dtype=C) for m in ([[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]))
ONE = torch.eye(2, dtype=C)
BELL = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=C) / 2
UP = torch.tensor([1, 0], dtype=C)


def test_normalisation():
    moved = evolve_state(UP.expand(3, 2), X + 0.3 * Z, torch.tensor(2.0, dtype=R))
    assert check_normalization(moved)
    off = check_normalization(1.1 * UP)
    assert not off
    assert off.value == pytest.approx(0.1)
    werner = 0.4 * BELL + 0.15 * torch.eye(4, dtype=C)
    assert check_normalization(werner, density=True)
    negative = check_normalization(torch.diag(torch.tensor([1.2, -0.2], dtype=C)), density=True)
    assert not negative
    assert negative.detail["negative_eigenvalue"] == pytest.approx(0.2)
    assert not check_normalization(torch.tensor([[0.5, 0.5], [0, 0.5]], dtype=C), density=True)


def test_uncertainty_of_spin_is_saturated_and_every_state_obeys_it():
    up = verify_uncertainty_relations(UP, (X, Y))
    assert up
    assert up.detail["deviation_product"] == pytest.approx(1)
    assert up.detail["bound"] == pytest.approx(1)
    for seed in range(8):
        values = torch.randn(2, 5, 4, generator=torch_generator(seed, "state"), dtype=R)
        kets = prepare_state(torch.complex(*values))
        a, b = (
            m + m.mH for m in torch.complex(*torch.randn(2, 2, 4, 4, generator=torch_generator(seed, "o"), dtype=R))
        )
        assert verify_uncertainty_relations(kets, (a, b))
    mixed = verify_uncertainty_relations(torch.eye(2, dtype=C) / 2, (X, Y), density=True)
    assert mixed.value == pytest.approx(1)


def test_a_limit_below_the_slack_fails():
    n = torch.arange(1, 12, dtype=R).sqrt()
    x = ((torch.diag(n, 1) + torch.diag(n, -1)) / sqrt(2)).to(C)
    p = (1j * (torch.diag(n, -1) - torch.diag(n, 1)) / sqrt(2)).to(C)
    ground, top = torch.eye(12, dtype=C)[0], torch.eye(12, dtype=C)[11]
    low = verify_uncertainty_relations(ground, (x, p))
    assert low
    assert low.detail["bound"] == pytest.approx(0.5)  # hbar / 2
    # On the top level [x, p] is -i (d - 1) hbar: the relation that holds there is not Heisenberg's.
    assert verify_uncertainty_relations(top, (x, p)).detail["bound"] == pytest.approx(5.5)
    assert not verify_uncertainty_relations(ground, (x, p), tol=-1.0)


def damping(gamma: float) -> list[torch.Tensor]:
    kraus = [[[1, 0], [0, sqrt(1 - gamma)]], [[0, sqrt(gamma)], [0, 0]]]
    return [torch.kron(torch.tensor(k, dtype=C), ONE) for k in kraus]


def test_local_damping_lowers_entanglement_and_a_gate_between_the_parts_is_found_out():
    report = check_entanglement_monotonicity(damping(0.3), BELL, (2, 2))
    assert report
    assert report.detail["after"] == pytest.approx(0.35)
    cnot = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], dtype=C)
    plus = prepare_state(torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=R))
    raised = check_entanglement_monotonicity([cnot], torch.outer(plus, plus.conj()), (2, 2))
    assert not raised
    assert not raised.detail["locc"]
    assert raised.detail["negativity_rise"] == pytest.approx(0.5)
    still = check_entanglement_monotonicity([torch.eye(8, dtype=C)], torch.eye(8, dtype=C) / 8, (2, 2, 2))
    assert still
    assert "concurrence_rise" not in still.detail


def test_teleportation_like_rounds_are_local():
    up, down = torch.diag(torch.tensor([1, 0], dtype=C)), torch.diag(torch.tensor([0, 1], dtype=C))
    told = LocalRound(0, [up, down], [{}, {1: [X]}])  # measure, tell, and flip on "down"
    report = check_entanglement_monotonicity([told, told], BELL, (2, 2))
    assert report
    assert report.detail["locc"]
    assert report.detail["after"] == pytest.approx(0, abs=1e-12)


def spots(u, time):
    steps = round(time / 0.1)
    return reaction_diffusion(u, torch.tensor([1.0, 12.0], dtype=R), schnakenberg(0.1, 0.9), 0.1, steps).states[-1]


@pytest.mark.slow
def test_pattern_stability():
    rest = torch.tensor([1.0, 0.9], dtype=R)[:, None, None].expand(2, 16, 16)
    k = torch.arange(1, 8, dtype=R) * 2 * torch.pi / 16
    theory = stability_analysis(rest[:, 0, 0], torch.tensor([1.0, 12.0], dtype=R), schnakenberg(0.1, 0.9), k)
    wave = torch.cos(theory.critical_wavenumber * torch.arange(16, dtype=R)).expand(2, 16, 16)
    seed = 1e-6 * theory.eigenvector.real[:, None, None] * wave
    growing = check_pattern_stability(rest, seed, 8.0, spots, growth=theory.growth_rate)
    assert not growing
    assert growing.detail["rate_difference"] < 0.02 * theory.growth_rate
    pattern = spots(rest + 0.1 * wave, 150.0)
    settled = check_pattern_stability(pattern, 1e-4 * wave, 8.0, spots)
    assert settled
    assert settled.value < growing.value


def test_symmetries_of_patterns():
    axis = torch.arange(12, dtype=R) - 5.5
    square = torch.cos(axis).unsqueeze(1) + torch.cos(axis)
    assert verify_symmetries(square, "p4mm")
    assert verify_symmetries(square, 11)
    sheared = torch.stack([line.roll(i) for i, line in enumerate(square)])
    broken = verify_symmetries(sheared, "p4mm")
    assert not broken
    assert broken.value > 0.1
    rhombus = torch.cos(axis).unsqueeze(1) * torch.cos(2 * axis) + torch.cos(2 * axis).unsqueeze(1) * torch.cos(axis)
    slanted = rhombus + 0.3 * torch.sin(axis).unsqueeze(1) * torch.sin(axis)
    assert verify_symmetries(slanted, 5)
    assert verify_symmetries(slanted, "c2mm")
    assert not verify_symmetries(slanted, "p2mm")
    assert not verify_symmetries(slanted + 0.1 * axis, "cm")
    stripes = torch.cos(axis).expand(12, 12) * torch.tensor([1.0, 2.0], dtype=R).repeat(6).unsqueeze(1)
    assert verify_symmetries(stripes, {"mirror": lambda p: p.flip(-1)})
    assert not verify_symmetries(stripes, "p4")


def test_scale_invariance():
    grid = torch.ones(1, 1, dtype=torch.bool)
    for _ in range(7):
        grid = torch.cat([torch.cat([grid, torch.zeros_like(grid)], 1), torch.cat([grid, grid], 1)])
    assert check_scale_invariance(grid)
    axis = torch.arange(128, dtype=R) - 64
    blob_of_bits = axis.square().unsqueeze(1) + axis.square() < 30**2
    assert not check_scale_invariance(blob_of_bits)
    k = 256 * torch.fft.fftfreq(256, dtype=R)
    radius = (k.square().unsqueeze(1) + k.square()).sqrt().clamp(min=1)
    white = torch.randn(256, 256, generator=torch_generator(0, "field"), dtype=R)
    pink = torch.fft.ifft2(torch.fft.fft2(white) / radius).real
    report = check_scale_invariance(pink)
    assert report
    assert report.detail["exponent"] == pytest.approx(-2, abs=0.1)
    assert not check_scale_invariance(torch.exp(-(axis.square().unsqueeze(1) + axis.square()) / 32))
    assert check_scale_invariance(pink, lambda p: p[::2, ::2])


def test_reports_combine():
    good, bad = CheckReport(True, 0.1, 1.0), CheckReport(False, 2.0, 1.0)
    both = combine({"first": good, "second": bad})
    assert not both
    assert both.detail["failed"] == ["second"]
    assert combine({"first": good})
    text = describe(both, name="all").splitlines()
    assert text[0] == "all fails: 1 against 0"
    assert text[1:] == ["  first holds: 0.1 against 1", "  second fails: 2 against 1"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: combine({}), "no check"),
        (lambda: check_normalization(torch.tensor([float("nan")])), "nan"),
        (lambda: verify_uncertainty_relations(UP, (X, torch.tensor([[0, 1], [0, 0]], dtype=C))), "Hermitian"),
        (lambda: check_entanglement_monotonicity([2 * torch.eye(4, dtype=C)], BELL, (2, 2)), "identity by 3"),
        (lambda: check_entanglement_monotonicity([], BELL, (2, 2)), "without Kraus"),
        (lambda: check_entanglement_monotonicity([LocalRound(0, [ONE], [])], BELL, (2, 2)), "1 outcomes with 0"),
        (lambda: check_entanglement_monotonicity([LocalRound(0, [ONE], [{0: [ONE]}])], BELL, (2, 2)), "answers itself"),
        (lambda: check_pattern_stability(torch.zeros(2, 2), torch.zeros(2, 2), 1.0, lambda u, t: u), "norm 0"),
        (lambda: verify_symmetries(torch.ones(4, 4), "p31m"), "p31m"),
        (lambda: verify_symmetries(torch.zeros(4, 4), "p2"), "zeros"),
        (lambda: verify_symmetries(torch.ones(4, 6), "p4"), r"\(4, 6\)"),
        (lambda: check_scale_invariance(torch.ones(30, 30)), r"\(30, 30\)"),
        (lambda: check_scale_invariance(torch.ones(64, 64)), "power 0"),
        (lambda: check_scale_invariance(torch.ones(64, 64), 5), "blocks of 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_refused(call, says):
    with pytest.raises(GeometryError, match=says):
        call()
