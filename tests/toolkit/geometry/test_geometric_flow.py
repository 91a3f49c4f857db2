"""Ricci flow of space forms, conformal and sampled metrics, and of graphs; derivatives of sampled fields."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import vmap

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns.riemannian import RiemannianManifold, metrics
from toolkit.geometry.core.patterns.riemannian.tensors import christoffel_field
from toolkit.geometry.grids import grid_derivative, grid_gradient
from toolkit.geometry.neural.flow import geometric_flow as gf
from toolkit.geometry.types import GridField, Trajectory
from toolkit.rng import torch_generator

F64 = torch.float64


def forms(dims: tuple[int, ...], signs: tuple[int, ...], *squares: float) -> gf.SpaceForms:
    return gf.SpaceForms(dims, signs, torch.tensor(squares, dtype=F64))


def bumpy_torus(size: int = 24) -> gf.ConformalMetric:
    x = torch.arange(size, dtype=F64) * (2 * math.pi / size)
    u = 0.3 * torch.cos(x)[:, None] * torch.sin(x) + 0.2 * torch.sin(2 * x) + 0.1 * torch.cos(x)[:, None]
    return gf.ConformalMetric(GridField(u, (2 * math.pi / size,) * 2, (True, True)))


def sampled(metric, size: int, low: float, high: float, n: int, periodic: bool) -> tuple[GridField, Tensor]:  # type: ignore[no-untyped-def]
    step = (high - low) / (size if periodic else size - 1)
    axis = low + step * torch.arange(size, dtype=F64)
    points = torch.stack(torch.meshgrid(*[axis] * n, indexing="ij"), -1)
    values = vmap(metric)(points.reshape(-1, n)).reshape(*points.shape[:-1], n, n)
    return GridField(values, (step,) * n, (periodic,) * n), points


def wavy(point: Tensor) -> Tensor:
    x, y = point[0], point[1]
    off = 0.2 * (x + y).sin()
    return torch.stack([torch.stack([1.5 + 0.4 * x.cos() * y.sin(), off]), torch.stack([off, 1.2 + 0.3 * y.cos()])])


# --- derivatives of samples


@pytest.mark.parametrize("periodic", [True, False])
def test_a_second_derivative_is_the_derivative_of_the_first(periodic: bool) -> None:
    x = torch.arange(12, dtype=F64) * (2 * math.pi / 12)
    field = GridField(x.sin()[:, None] * (2 * x).cos() + x * x, (2 * math.pi / 12,) * 2, (periodic,) * 2)
    for axis in (0, 1):
        once = GridField(grid_derivative(field, axis), field.spacing, field.periodic)
        torch.testing.assert_close(grid_derivative(field, axis, order=2), grid_derivative(once, axis))


def test_periodic_derivatives_are_spectral() -> None:
    x = torch.arange(16, dtype=F64) * (2 * math.pi / 16)
    field = GridField(x.sin()[:, None] * (3 * x).cos(), (2 * math.pi / 16,) * 2, (True, True))
    expected = torch.stack([x.cos()[:, None] * (3 * x).cos(), -3 * x.sin()[:, None] * (3 * x).sin()], -1)
    torch.testing.assert_close(grid_gradient(field), expected, rtol=0, atol=1e-13)
    nyquist = GridField(torch.tensor([1.0, -1, 1, -1], dtype=F64), (1.0,), (True,))
    assert not grid_derivative(nyquist, 0).any()


def test_open_derivatives_have_order_four() -> None:
    errors = []
    for size in (21, 41):
        x = torch.linspace(0, 2, size, dtype=F64)
        slope = grid_derivative(GridField(x.exp(), (2 / (size - 1),), (False,)), 0)
        errors.append((slope - x.exp()).abs().max())
    assert 0.8 * 16 < errors[0] / errors[1] < 1.2 * 16
    quartic = torch.linspace(0, 1, 5, dtype=F64) ** 4
    expected = 4 * torch.linspace(0, 1, 5, dtype=F64) ** 3
    torch.testing.assert_close(grid_derivative(GridField(quartic, (0.25,), (False,)), 0), expected, rtol=0, atol=1e-13)


# --- the Ricci tensor


def test_ricci_of_a_field() -> None:
    point = torch.tensor([0.9, 0.3, 0.2], dtype=F64)
    sphere = metrics.sphere()
    torch.testing.assert_close(gf.compute_ricci_tensor(sphere)(point), 2 * sphere(point), rtol=0, atol=1e-12)
    given = gf.compute_ricci_tensor(sphere, christoffel_field(sphere), at=point[None])
    torch.testing.assert_close(given(point), 2 * sphere(point), rtol=0, atol=1e-12)
    with pytest.raises(GeometryError, match="changes lengths"):
        gf.compute_ricci_tensor(sphere, lambda x: torch.zeros(3, 3, 3, dtype=F64), at=point[None])
    with pytest.raises(GeometryError, match="points"):
        gf.compute_ricci_tensor(sphere, christoffel_field(sphere))


def test_ricci_of_samples_converges_spectrally() -> None:
    errors = []
    for size in (12, 24, 36):
        grid, points = sampled(wavy, size, 0.0, 2 * math.pi, 2, True)
        truth = RiemannianManifold(wavy, 2).curvature_tensor(points).ricci
        errors.append(float((gf.compute_ricci_tensor(grid).values - truth).abs().max()))
    assert errors[1] < errors[0] / 30  # an algebraic order would gain at most 2**p: spectral errors keep squaring
    assert errors[2] < errors[1] / 30
    grid, points = sampled(metrics.sphere(), 41, 0.8, 1.8, 2, False)
    truth = RiemannianManifold(metrics.sphere(), 2).curvature_tensor(points).ricci
    assert (gf.compute_ricci_tensor(grid).values - truth).abs().max() < 1e-3  # order four, twice, at 1/40


def test_ricci_of_samples_with_a_connection() -> None:
    grid, points = sampled(wavy, 32, 0.0, 2 * math.pi, 2, True)
    symbols = RiemannianManifold(wavy, 2).christoffel_symbols(points)
    given = gf.compute_ricci_tensor(grid, GridField(symbols, grid.spacing, grid.periodic))
    torch.testing.assert_close(given.values, gf.compute_ricci_tensor(grid).values, rtol=0, atol=1e-5)
    with pytest.raises(GeometryError, match="changes lengths"):
        gf.compute_ricci_tensor(grid, GridField(0 * symbols, grid.spacing, grid.periodic))


# --- space forms


@pytest.mark.parametrize(("sign", "n"), [(1, 2), (1, 3), (-1, 3), (0, 4), (1, 1)])
def test_space_forms_flow_exactly(sign: int, n: int) -> None:
    run = gf.ricci_flow(forms((n,), (sign,), 2.0), 0.01, 20)
    torch.testing.assert_close(run.states[:, 0], 2.0 - 2 * (n - 1) * sign * run.times, rtol=0, atol=1e-14)


def test_measures_of_a_product() -> None:
    found = gf.measure(forms((2, 3, 1), (1, -1, 0), 4.0, 9.0, 2.0))
    assert found.volume == pytest.approx(4 * math.pi * 4 * 27 * math.sqrt(2), rel=1e-14)
    assert found.scalar_min == found.scalar_max == pytest.approx(2 / 4 - 6 / 9)
    assert found.curvature_max == 0.25
    assert found.min_eigenvalue == 2.0
    assert found.suggested_dt == pytest.approx(0.4)
    assert gf.measure(forms((3,), (0,), 1.0)).suggested_dt == math.inf
    assert gf.sphere_volume(3) == pytest.approx(2 * math.pi**2)


def test_sphere_shrinks_to_a_point_on_time() -> None:
    n, square = 3, 2.0
    run = gf.ricci_flow(forms((n,), (1,), square), 0.01, 1000)
    assert "squared radius" in run.info["ended"]
    assert len(run.times) == 50
    found = gf.detect_singularities(run, threshold=2.0)
    assert found.blow_up_time == pytest.approx(square / (2 * (n - 1)), rel=0.01)
    assert bool((found.times > 0.25).all())
    assert len(found.times)
    assert gf.detect_singularities(gf.ricci_flow(forms((3,), (-1,), 1.0), 0.1, 20), 9.0).blow_up_time == math.inf
    assert gf.detect_singularities(gf.ricci_flow(forms((3,), (0,), 1.0), 0.1, 20), 9.0).blow_up_time == math.inf


@pytest.mark.slow
def test_normalized_flow_keeps_volume_and_round_spheres() -> None:
    run = gf.ricci_flow(forms((3,), (1,), 2.0), 0.01, 30)
    assert gf.normalize_flow(run, "none") is run
    for mode in ("ricci", "volume"):
        still = gf.normalize_flow(run, mode)
        torch.testing.assert_close(still.states, run.states[:1].expand_as(run.states), rtol=0, atol=1e-14)
    assert still.times[-1] == run.times[-1]
    # S^2 x S^2 of two sizes, against the volume-normalised equation dx/dt = -2 + x R / 2, R = 2/x + 2/y
    run = gf.ricci_flow(forms((2, 2), (1, 1), 1.0, 1.5), 1e-4, 2000, keep_every=500)
    scaled = gf.normalize_flow(run, "ricci")
    torch.testing.assert_close(scaled.states.prod(1), torch.full((5,), 1.5, dtype=F64), rtol=0, atol=1e-13)
    x, time = torch.tensor([1.0, 1.5], dtype=F64), 0.0
    fine = gf.normalize_flow(gf.ricci_flow(forms((2, 2), (1, 1), 1.0, 1.5), 1e-4, 2000), "ricci")
    while time < float(fine.times[-1]) - 5e-5:
        x, time = x + 1e-4 * (-2 + x * (2 / x).sum() / 2), time + 1e-4
    torch.testing.assert_close(fine.states[-1], x, rtol=0, atol=2e-3)  # both are of order one in 1e-4


# --- conformal metrics


@pytest.mark.slow
def test_conformal_torus_becomes_flat() -> None:
    metric = bumpy_torus(16)
    dt = gf.measure(metric).suggested_dt
    run = gf.ricci_flow(metric, dt, 1000, keep_every=50)
    lowest = [m.scalar_min for m in run.info["metrics"]]
    assert all(after >= before for before, after in pairwise(lowest))
    assert max(abs(m.total_scalar) for m in run.info["metrics"]) < 1e-11
    energy = torch.stack([grid_gradient(GridField(u, *_frame(metric))).square().mean() for u in run.states])
    assert bool((energy.diff() <= 0).all())
    # the slowest mode falls at a rate near 1, for a time of about 3.4
    assert run.states[-1].std() < 0.05 * run.states[0].std()


def _frame(metric: gf.ConformalMetric) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    return metric.log_factor.spacing, metric.log_factor.periodic


def test_a_step_has_gradients() -> None:
    spacing, periodic = _frame(bumpy_torus(6))

    def step(u: Tensor) -> Tensor:
        metric = gf.ConformalMetric(GridField(u, spacing, periodic))
        moved, _ = gf.flow_step(metric, gf.compute_ricci_tensor(metric), 0.01)
        assert isinstance(moved, gf.ConformalMetric)
        return moved.log_factor.values

    assert torch.autograd.gradcheck(step, (bumpy_torus(6).log_factor.values.requires_grad_(),))

    def radii(squares: Tensor) -> Tensor:
        return gf.ricci_flow(gf.SpaceForms((2, 3), (1, -1), squares), 0.01, 3).states

    assert torch.autograd.gradcheck(radii, (torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True),))


def test_conformal_curvature_and_area() -> None:
    metric = bumpy_torus(32)

    def factor(p: Tensor) -> Tensor:
        return 0.3 * p[0].cos() * p[1].sin() + 0.2 * (2 * p[1]).sin() + 0.1 * p[0].cos()

    x = torch.arange(32, dtype=F64) * (2 * math.pi / 32)
    points = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1)
    exact = RiemannianManifold(metrics.conformal(metrics.euclidean(2), factor), 2).curvature_tensor(points)
    torch.testing.assert_close(metric.gauss, exact.scalar / 2, rtol=0, atol=1e-11)
    assert not gf.measure(metric).total_scalar > 1e-11
    ricci = gf.compute_ricci_tensor(metric)
    torch.testing.assert_close(ricci, exact.ricci[..., 0, 0], rtol=0, atol=1e-11)


def test_area_falls_at_the_rate_of_gauss_and_bonnet() -> None:
    # dA/dt = -4 pi chi: on the sphere -8 pi, on the torus 0 to the order of the step
    sphere = gf.ricci_flow(forms((2,), (1,), 3.0), 0.01, 10)
    areas = torch.tensor([m.volume for m in sphere.info["metrics"]], dtype=F64)
    torch.testing.assert_close(areas.diff() / 0.01, torch.full((10,), -8 * math.pi, dtype=F64), rtol=1e-11, atol=0)
    metric = bumpy_torus()
    before, (_, after) = gf.measure(metric).volume, gf.flow_step(metric, gf.compute_ricci_tensor(metric), 1e-3)
    assert after.volume == pytest.approx(before, rel=1e-13)


# --- sampled metrics


def test_a_sampled_surface_flows_like_its_conformal_factor() -> None:
    metric = bumpy_torus(16)
    u = metric.log_factor
    full = GridField((2 * u.values).exp()[..., None, None] * torch.eye(2, dtype=F64), u.spacing, u.periodic)
    conformal, _ = gf.flow_step(metric, gf.compute_ricci_tensor(metric), 1e-3)
    moved, found = gf.flow_step(full, gf.compute_ricci_tensor(full), 1e-3)
    assert isinstance(conformal, gf.ConformalMetric)
    expected = (2 * conformal.log_factor.values).exp()
    assert isinstance(moved, GridField)
    torch.testing.assert_close(moved.values[..., 0, 0], expected, rtol=0, atol=1e-4)  # what 16 samples resolve
    assert abs(found.total_scalar) < 1e-3
    assert found.suggested_dt < 0.1


def test_flat_space_stays_flat_and_three_dimensions_want_deturck() -> None:
    flat = GridField(torch.eye(3, dtype=F64).expand(6, 6, 6, 3, 3).clone(), (1.0,) * 3, (True,) * 3)
    with pytest.raises(GeometryError, match="weakly parabolic"):
        gf.flow_step(flat, gf.compute_ricci_tensor(flat), 0.01)
    run = gf.ricci_flow(flat, 0.01, 2, deturck=True)
    assert torch.equal(run.states[2], flat.values)
    x = torch.arange(6, dtype=F64) * (math.pi / 3)
    bump = 1 + 0.1 * torch.cos(x)[:, None, None] * torch.sin(x)[:, None] * torch.ones(6, dtype=F64)
    rough = GridField(flat.values * bump[..., None, None], (math.pi / 3,) * 3, (True,) * 3)
    dt = gf.measure(rough).suggested_dt
    run = gf.ricci_flow(rough, dt, 60, keep_every=10, deturck=True)
    assert run.info["metrics"][-1].curvature_max < 0.2 * run.info["metrics"][0].curvature_max


# --- graphs


def _adjacency(n: int, edges: list[tuple[int, int]]) -> Tensor:
    a = torch.zeros(n, n, dtype=F64)
    for i, j in edges:
        a[i, j] = a[j, i] = 1.0
    return a


def _cycle(n: int) -> Tensor:
    return _adjacency(n, [(i, (i + 1) % n) for i in range(n)])


def _cube(n: int) -> Tensor:
    return _adjacency(2**n, [(v, v ^ (1 << b)) for v in range(2**n) for b in range(n) if v < v ^ (1 << b)])


@pytest.mark.parametrize(
    ("graph", "curvature"),
    [(1 - torch.eye(n, dtype=F64), n / (n - 1)) for n in (3, 4, 6)]
    + [(_cycle(3), 1.5), (_cycle(4), 1.0), (_cycle(5), 0.5), (_cycle(6), 0.0), (_cycle(9), 0.0)]
    + [(_cube(n), 2 / n) for n in (2, 3, 4)],
)
def test_lin_lu_yau_curvature(graph: Tensor, curvature: float) -> None:
    found = gf.ollivier_curvature(graph)
    torch.testing.assert_close(found, curvature * graph, rtol=0, atol=1e-9)


def test_curvature_of_a_tree() -> None:
    tree = _adjacency(7, [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5), (3, 6)])
    degrees = tree.sum(1)
    expected = tree * (2 / degrees[:, None] + 2 / degrees - 2)
    torch.testing.assert_close(gf.ollivier_curvature(tree), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(gf.ollivier_curvature(tree, 3 * tree), expected / 3 * 3, rtol=0, atol=1e-9)
    torch.testing.assert_close(gf.forman_curvature(tree), tree * (4 - degrees[:, None] - degrees))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(1, 70), st.integers(0, 150), st.sampled_from([torch.float32, F64]))
def test_forman_is_the_count_of_common_neighbours_however_many_edges(
    nodes: int, edges: int, dtype: torch.dtype
) -> None:
    """Few edges are compared as bits, many by a product of matrices."""
    ends = torch.randint(nodes, (2, edges), generator=torch_generator(nodes, edges))
    weights = torch.zeros(nodes, nodes, dtype=dtype)
    weights[ends[0], ends[1]] = weights[ends[1], ends[0]] = 0.5
    weights.fill_diagonal_(0)
    near = [set(row.nonzero().flatten().tolist()) for row in weights]
    wanted = torch.zeros_like(weights)
    for x, others in enumerate(near):
        for y in others:
            wanted[x, y] = 4 - len(others) - len(near[y]) + 3 * len(others & near[y])
    assert torch.equal(gf.forman_curvature(weights), wanted)


def test_forman_counts_triangles() -> None:
    full = 1 - torch.eye(4, dtype=F64)
    assert torch.equal(gf.forman_curvature(full), full * (4 - 3 - 3 + 3 * 2))


def test_graph_flow_stretches_the_bridge() -> None:
    edges = [(i, j) for block in (range(4), range(4, 8)) for i in block for j in block if i < j] + [(3, 4)]
    graph = _adjacency(8, edges)
    run = gf.graph_ricci_flow(graph, rate=0.3, steps=4)
    final = run.states[-1]
    assert final[3, 4] == final.max()
    assert final[0, 1] < 1 < final[3, 4]
    torch.testing.assert_close(run.states.sum((1, 2)), graph.sum().expand(5), rtol=1e-12, atol=0)
    assert float(run.info["curvature"][0, 3, 4]) < 0
    even = gf.graph_ricci_flow(_cube(3), steps=2).states
    torch.testing.assert_close(even, _cube(3).expand(3, 8, 8), rtol=0, atol=1e-8)  # the same everywhere: a fixed point
    start = gf.graph_ricci_flow(graph, rate=0.1, steps=1, lengths=2 * graph).states
    assert torch.equal(start[0], 2 * graph)


SPHERE = forms((3,), (1,), 1.0)
TORUS = bumpy_torus(8)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: GridField(torch.ones(3, 3), (1.0,), (True, True)), "spacings"),
        (lambda: GridField(torch.ones(3, 3), (1.0, 0.0), (True, True)), "positive"),
        (lambda: grid_derivative(GridField(torch.ones(4), (1.0,), (False,)), 0), "4 samples"),
        (lambda: forms((2,), (2,), 1.0), "signs"),
        (lambda: forms((2,), (1,), -1.0), "-1"),
        (lambda: gf.ConformalMetric(GridField(torch.ones(4, 4), (1.0, 1.0), (True, False))), "periodic"),
        (lambda: gf.compute_ricci_tensor(GridField(torch.ones(4, 4), (1.0, 1.0), (True, True))), "sampled metric"),
        (
            lambda: gf.measure(
                GridField(torch.diag(torch.tensor([1.0, -1.0])).expand(6, 6, 2, 2), (1.0,) * 2, (True,) * 2)
            ),
            "smallest eigenvalue is -1",
        ),
        (lambda: gf.flow_step(SPHERE, gf.compute_ricci_tensor(SPHERE), 0.0), "step of 0"),
        (lambda: gf.flow_step(SPHERE, gf.compute_ricci_tensor(SPHERE), 1.0), "radius is -3"),
        (lambda: gf.flow_step(TORUS, gf.compute_ricci_tensor(TORUS), 99.0), "falls to"),
        (lambda: gf.flow_step(TORUS, TORUS.log_factor, 0.1), "cannot flow along a GridField"),
        (lambda: gf.ricci_flow(SPHERE, 1.0, 3), "radius is -3"),
        (lambda: gf.ricci_flow(SPHERE, 0.1, 0), "0 steps"),
        (lambda: gf.normalize_flow(gf.ricci_flow(SPHERE, 0.01, 1), "volumes"), "volumes"),  # type: ignore[arg-type]
        (lambda: gf.detect_singularities(Trajectory(torch.ones(2, 1), torch.arange(2.0)), 1.0), "measures"),
        (lambda: gf.ollivier_curvature(torch.ones(3, 3)), "undirected"),
        (lambda: gf.ollivier_curvature(_cycle(4), torch.zeros(4, 4)), "length 0"),
        (lambda: gf.graph_ricci_flow(_cycle(4), rate=0.9), "rate 0.9"),
    ],
)
def test_bad_input(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GeometryError, match=says):
        call()
