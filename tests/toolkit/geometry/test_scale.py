"""Scale: restriction maps, renormalisation, anomalies, exponents, barcodes."""

from fractions import Fraction
from math import inf, log, pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import GeometryError, UnknownName
from toolkit.geometry.core.crystal.scale import (
    Bar,
    Filtration,
    WeylFermion,
    anomaly_polynomial,
    block_spins,
    box_dimension,
    doubling_operator,
    empirical_coupling,
    feigenbaum_constants,
    fixed_points,
    gaussian_smooth,
    hurst_exponent,
    ising_chain,
    ising_correlation_length,
    migdal_kadanoff,
    persistent_cohomology,
    plane_anomaly,
    renormalization_flow,
    rips_filtration,
    scale_connection,
    scale_invariants,
    symmetry_defect,
    tail_exponent,
    wilson_fisher_beta,
)
from toolkit.geometry.types import SimplicialComplex
from toolkit.rng import torch_generator

R = torch.float64
few = settings(derandomize=True, deadline=None, max_examples=15)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_generator(seed, "scale"), dtype=R)


def row(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=R)


@few
@given(st.sampled_from([(2, 2, 2), (3, 2, 4), (1, 5, 2)]), st.integers(0, 99))
def test_block_means_are_flat_and_keep_rows_stochastic(factors, seed):
    a, b, c = factors
    whole, fine, coarse = scale_connection(a * b * c, c), scale_connection(a * b * c, b * c), scale_connection(b * c, c)
    assert (whole.restriction - coarse.restriction @ fine.restriction).abs().max() < 1e-15
    assert (whole.restriction @ whole.prolongation - torch.eye(c)).abs().max() < 1e-12
    attention = torch.softmax(draw(2, a * b * c, a * b * c, seed=seed), -1)
    coarse_attention = whole.coarsen(attention)
    assert (coarse_attention.sum(-1) - 1).abs().max() < 1e-12
    assert coarse_attention.min() >= 0
    smooth = scale_connection(a * b * c, c, "gaussian")
    assert (smooth.restriction @ smooth.prolongation - torch.eye(c)).abs().max() < 1e-10
    assert (smooth.restriction.sum(1) - 1).abs().max() < 1e-12


def test_lumpable_chains_keep_their_stationary_law():
    blocks = torch.softmax(draw(3, 3), -1)  # rows of a block share what they send to each block
    inner = torch.softmax(draw(6, 3, 2), -1)
    fine = (blocks.repeat_interleave(2, 0).unsqueeze(-1) * inner).flatten(1)
    coarse = scale_connection(6, 3).coarsen(fine)
    assert (coarse - blocks).abs().max() < 1e-14

    def stationary(p):
        return torch.linalg.matrix_power(p, 4096)[0]

    assert (stationary(fine).reshape(3, 2).sum(1) - stationary(coarse)).abs().max() < 1e-10


@few
@given(st.integers(4, 33), st.floats(0, 3), st.floats(0, 3))
def test_gaussian_smoothing_is_a_semigroup_in_variance(n, s, t):
    x = draw(2, n)
    together = gaussian_smooth(x, s + t)
    assert (gaussian_smooth(gaussian_smooth(x, s), t) - together).abs().max() < 1e-12
    assert (together.sum(-1) - x.sum(-1)).abs().max() < 1e-11


def test_decimation_halves_the_correlation_length():
    k = row(0.2, 0.7, 1.5)
    assert (ising_correlation_length(ising_chain(k)) - ising_correlation_length(k) / 2).abs().max() < 1e-10
    flow = renormalization_flow(ising_chain, row(1.0), steps=4)
    lengths = ising_correlation_length(flow.trajectory[:, 0])
    assert (lengths[:-1] / lengths[1:] - 2).abs().max() < 1e-9
    found = fixed_points(flow, row([0.1], [0.5]))
    assert len(found) == 1
    assert found[0].position.abs().max() < 1e-6
    assert found[0].kinds == ("irrelevant",)


def test_decimated_samples_show_the_coupling_of_the_map():
    k = 0.6
    generator = torch_generator(0, "chain")
    flips = torch.rand(400, 256, generator=generator, dtype=R) < 1 / (1 + torch.exp(row(2 * k)))
    spins = torch.where(flips, -1.0, 1.0).cumprod(1)
    for samples, exact in ((spins, k), (block_spins(spins, 2), float(ising_chain(row(k))))):
        found, error = empirical_coupling(samples)
        assert abs(found - exact) < 4 * error
    assert block_spins(row(1, -1, -1, 1, 1, -1), 3, "majority").tolist() == [-1, 1]


@pytest.mark.parametrize(("order", "critical"), [("bonds", 0.3046889), ("decimate", 0.6093779)])
def test_migdal_kadanoff(order, critical):
    flow = renormalization_flow(migdal_kadanoff(order), row(0.3), steps=2)
    point = fixed_points(flow, row([0.1], [0.4], [0.8], [0.41]))[-1]
    assert point.position.item() == pytest.approx(critical, abs=1e-7)
    assert point.eigenvalues.real.item() == pytest.approx(1.6785735, abs=1e-7)
    assert point.exponents.item() == pytest.approx(0.7472357, abs=1e-7)
    assert 1 / point.exponents.item() == pytest.approx(1.338266, abs=1e-6)
    assert point.kinds == ("relevant",)


def test_feigenbaum_constants():
    alpha, delta = feigenbaum_constants(9)
    assert alpha == pytest.approx(-2.502907875, abs=2e-9)
    assert delta == pytest.approx(4.669201609, abs=2e-9)


def test_wilson_fisher():
    epsilon = 0.3
    gauss, fisher = fixed_points(wilson_fisher_beta(epsilon), row([0.5], [10.0]))
    assert gauss.kinds == ("relevant",)
    assert fisher.position.item() == pytest.approx(16 * pi**2 * epsilon / 3, rel=1e-12)
    assert fisher.exponents.item() == pytest.approx(-epsilon, abs=1e-10)
    assert fisher.kinds == ("irrelevant",)


def test_marginal_directions_and_starts_that_lead_nowhere():
    flow = renormalization_flow(lambda k: torch.stack([k[0], k[1] ** 2]), row(1.0, 0.5), steps=1)
    found = fixed_points(flow, row([1.0, 0.1]))
    assert found[0].kinds == ("marginal", "irrelevant")
    assert found[0].marginal_directions[:, 0].abs().tolist() == pytest.approx([1, 0])
    assert fixed_points(lambda k: k**2 + 1, row([0.3])) == []
    assert fixed_points(lambda k: k.sqrt() + 1, row([-1.0])) == []


def standard_model() -> list[WeylFermion]:
    sixth = Fraction(1, 6)
    return [
        WeylFermion(sixth, 2, 3), WeylFermion(-4 * sixth, 1, -3), WeylFermion(2 * sixth, 1, -3),
        WeylFermion(-3 * sixth, 2), WeylFermion(6 * sixth),
    ]  # fmt: skip


def test_anomalies_of_a_generation_cancel_and_only_together():
    assert set(anomaly_polynomial(standard_model()).values()) == {Fraction(0)}
    for missing in range(5):
        rest = [f for i, f in enumerate(standard_model()) if i != missing]
        assert any(anomaly_polynomial(rest).values())
    assert plane_anomaly([3, 4], [5, 0]) == 0
    assert plane_anomaly([3, 4], [5, 1]) == -1
    octet = anomaly_polynomial([WeylFermion(Fraction(1), 3, 8)])
    assert octet["SU(3)^2 U(1)"] == 9
    assert octet["SU(2)^2 U(1)"] == 16


def test_symmetry_defect():
    torch_conv = torch.nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular", bias=True).double()
    x = draw(4, 2, 12)

    def shift(v):
        return v.roll(1, -1)

    assert symmetry_defect(torch_conv, shift, x) < 1e-15
    broken = symmetry_defect(lambda v: torch_conv(v) * torch.linspace(1, 2, 12, dtype=R), shift, x)
    assert broken > 0.05
    assert symmetry_defect(lambda v: v.sum(-1), shift, x, after=lambda y: y) < 1e-14


def sierpinski(depth: int) -> torch.Tensor:
    grid = torch.ones(1, 1, dtype=torch.bool)
    for _ in range(depth):
        grid = torch.cat([torch.cat([grid, torch.zeros_like(grid)], 1), torch.cat([grid, grid], 1)])
    return grid


def test_box_dimensions_of_generated_fractals_are_exact():
    cantor = torch.ones(1, dtype=torch.bool)
    for _ in range(6):
        cantor = torch.cat([cantor, torch.zeros_like(cantor), cantor])
    assert box_dimension(cantor).value == pytest.approx(log(2) / log(3), abs=1e-12)
    assert box_dimension(sierpinski(7)).value == pytest.approx(log(3) / log(2), abs=1e-12)
    assert scale_invariants(torch.ones(8, 8, 8, dtype=torch.bool))["box_dimension"].value == pytest.approx(3)


def test_hurst_and_tail_exponents():
    steps = draw(1 << 16)
    assert hurst_exponent(steps).value == pytest.approx(0.5, abs=0.03)
    persistent = gaussian_smooth(steps, 4.0).cumsum(0).diff()
    assert set(scale_invariants(persistent)) == {"hurst", "tail"}
    noise = torch.fft.irfft(torch.fft.rfft(steps) * torch.arange(1, (1 << 15) + 2, dtype=R) ** -0.3)
    assert hurst_exponent(noise).value == pytest.approx(0.8, abs=0.04)  # power k^-(2H - 1)
    pareto = torch.rand(1 << 16, generator=torch_generator(0, "tail"), dtype=R) ** (-1 / 2.5)
    alpha = tail_exponent(pareto)
    assert abs(alpha.value - 2.5) < 4 * alpha.error


def test_a_circle_has_one_long_bar():
    angle = 2 * pi * torch.arange(14, dtype=R) / 14
    points = torch.stack([angle.cos(), angle.sin()], 1)
    bars = persistent_cohomology(rips_filtration(points, radius=2.1), least=0.5, dim=1)
    assert [bar.dim for bar in bars] == [0, 1]
    assert bars[0].death == inf
    assert bars[1].death - bars[1].birth > 1


@few
@given(st.integers(0, 999), st.sampled_from([2, 3, 5]))
def test_barcodes_equal_gudhis(seed, prime):
    gudhi = pytest.importorskip("gudhi")
    points = draw(12, 3, seed=seed)
    filtration = rips_filtration(points, radius=2.5, dim=3)
    tree = gudhi.SimplexTree()
    for simplex, value in filtration.by_simplex().items():
        tree.insert(list(simplex), filtration=value)
    theirs = sorted((dim, *ends) for dim, ends in tree.persistence(prime, 1e-9, persistence_dim_max=True))
    ours = sorted(tuple(bar) for bar in persistent_cohomology(filtration, prime=prime, least=1e-9))
    assert len(ours) == len(theirs)
    assert all(a == pytest.approx(b) for a, b in zip(ours, theirs, strict=True))


def test_torsion_shows_in_the_coefficients():
    plane = SimplicialComplex.from_facets(
        [(0, 1, 4), (0, 1, 5), (0, 2, 3), (0, 2, 4), (0, 3, 5), (1, 2, 3), (1, 2, 5), (1, 3, 4), (2, 4, 5), (3, 4, 5)]
    )  # the projective plane of six vertices
    at_once = Filtration(plane, tuple(torch.zeros(len(block)) for block in plane.simplices))
    betti = {p: [bar.dim for bar in persistent_cohomology(at_once, prime=p)] for p in (2, 3)}
    assert betti == {2: [0, 1, 2], 3: [0]}
    assert Bar(0, 0.0, inf) in persistent_cohomology(at_once)


EDGE = SimplicialComplex.from_facets([(0, 1)])
UNIFORM = torch.full((4, 4), 0.25, dtype=R)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: scale_connection(6, 4), "6 samples in 4"),
        (lambda: scale_connection(4, 2).coarsen(2 * UNIFORM), "a row of the attention sums to"),
        (lambda: scale_connection(4, 2).coarsen(UNIFORM[:3]), r"\(3, 4\)"),
        (lambda: gaussian_smooth(row(1.0, 2.0), -1.0), "variance -1"),
        (lambda: renormalization_flow(torch.exp, row(1.0), steps=9), "after step 4"),
        (lambda: renormalization_flow(torch.exp, row(1.0), steps=0), "0 steps"),
        (lambda: block_spins(row(1.0, 0.5), 2), "spin 0.5"),
        (lambda: block_spins(row(1.0, 1.0), 2, "majority"), "majority"),
        (lambda: empirical_coupling(torch.ones(3, 4)), "mean product 1"),
        (lambda: empirical_coupling(torch.ones(3)), r"\(3,\)"),
        (lambda: fixed_points(torch.exp, row(1.0)), r"\(1,\)"),
        (lambda: doubling_operator(1), "1 coefficients"),
        (lambda: feigenbaum_constants(16), "universal function with 16"),
        (lambda: WeylFermion(Fraction(1), 9), "1 x 9"),
        (lambda: WeylFermion(0.5), "charge 0.5"),
        (lambda: anomaly_polynomial([]), "empty"),
        (lambda: symmetry_defect(lambda v: 0 * v, lambda v: v, row(1.0)), r"f\(x\) is 0"),
        (lambda: symmetry_defect(lambda v: v[: int(v[0])], lambda v: v.flip(0), row(2.0, 1.0)), "shape"),
        (lambda: box_dimension(torch.zeros(4, 4, dtype=torch.bool)), "no cell"),
        (lambda: box_dimension(torch.ones(4, 2, dtype=torch.bool)), r"\(4, 2\)"),
        (lambda: box_dimension(torch.ones(7, dtype=torch.bool)), "side of 7"),
        (lambda: hurst_exponent(torch.ones(200)), "all steps are equal"),
        (lambda: hurst_exponent(torch.ones(20)), r"\(20,\)"),
        (lambda: hurst_exponent(draw(200), windows=(2, 4)), r"windows \[2, 4\]"),
        (lambda: tail_exponent(torch.ones(20)), "tail of 1"),
        (lambda: tail_exponent(torch.ones(400)), "equal"),
        (lambda: scale_invariants(torch.ones(2, 2)), r"\(2, 2\)"),
        (lambda: rips_filtration(torch.zeros(0, 2), radius=1.0), r"\(0, 2\)"),
        (lambda: persistent_cohomology(rips_filtration(torch.zeros(1, 2), radius=1.0), prime=4), "modulo 4"),
        (lambda: Filtration(EDGE, (torch.zeros(2),)), "shapes"),
        (lambda: Filtration(EDGE, (torch.zeros(2), -torch.ones(1))), "before its face"),
        (lambda: Filtration(EDGE, (torch.zeros(2), torch.full((1,), float("nan")))), "comes at nan"),
    ],
)  # fmt: skip
def test_what_has_no_scale_is_refused_with_its_value(call, says):
    with pytest.raises(GeometryError, match=says):
        call()


def test_unknown_windows_are_refused():
    with pytest.raises(UnknownName, match="hann"):
        scale_connection(4, 2, "hann")
