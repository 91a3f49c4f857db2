"""Riemannian structure: closed forms, a symbolic oracle, and what no change of coordinates may change."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jacfwd, vmap

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns.riemannian import MetricNet, RiemannianManifold, metrics
from toolkit.geometry.linear import solve
from toolkit.rng import torch_generator

F64 = torch.float64
SPHERE = RiemannianManifold(metrics.sphere(), 2)


def near(a: Tensor, b: Tensor | float, tol: float = 1e-9) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype).expand(a.shape), rtol=0, atol=tol)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch_generator(seed), dtype=F64)


def test_symbols_of_the_sphere() -> None:
    points = 0.4 + draw(0, 3, 4, 2) * 2
    symbols, theta = SPHERE.christoffel_symbols(points), points[..., 0]
    expected = torch.zeros(3, 4, 2, 2, 2, dtype=F64)
    expected[..., 0, 1, 1] = -theta.sin() * theta.cos()
    expected[..., 1, 0, 1] = expected[..., 1, 1, 0] = theta.cos() / theta.sin()
    near(symbols, expected, 1e-12)
    near(SPHERE.christoffel_symbols(points[1, 2]), expected[1, 2], 1e-12)


@pytest.mark.slow
def test_symbols_and_curvature_against_sympy() -> None:
    sympy = pytest.importorskip("sympy")
    x = sympy.symbols("x0:3")
    g = sympy.Matrix([[2 + sympy.cos(x[1]), x[2] / 5, 0], [x[2] / 5, 1 + x[0] ** 2, sympy.sin(x[0]) / 4],
                      [0, sympy.sin(x[0]) / 4, sympy.exp(x[1] / 3)]])  # fmt: skip

    def metric(p: Tensor) -> Tensor:
        zero = torch.zeros_like(p[0])
        rows = [[2 + p[1].cos(), p[2] / 5, zero], [p[2] / 5, 1 + p[0] ** 2, p[0].sin() / 4],
                [zero, p[0].sin() / 4, (p[1] / 3).exp()]]  # fmt: skip
        return torch.stack([torch.stack(row) for row in rows])

    point = (0.3, -0.7, 0.5)
    inverse = g.adjugate() / g.det()  # seconds faster than g.inv(), which simplifies on its way
    r = range(3)
    gamma = [[[sum(inverse[a, m] * (g[m, j].diff(x[i]) + g[m, i].diff(x[j]) - g[i, j].diff(x[m])) for m in r) / 2
               for j in r] for i in r] for a in r]  # fmt: skip
    exact = [[[[e, *(e.diff(z) for z in x)] for e in row] for row in block] for block in gamma]
    found = torch.tensor(sympy.lambdify(x, exact, modules="math", cse=True)(*point), dtype=F64)
    values, slopes = found[..., 0], found[..., 1:]
    expected = torch.zeros(3, 3, 3, 3, dtype=F64)
    for a, i, j, k in torch.cartesian_prod(*[torch.arange(3)] * 4).tolist():
        expected[a, i, j, k] = (slopes[a, i, k, j] - slopes[a, i, j, k]
                                + values[a, j] @ values[:, i, k] - values[a, k] @ values[:, i, j])  # fmt: skip
    manifold, p = RiemannianManifold(metric, 3), torch.tensor(point, dtype=F64)
    near(manifold.christoffel_symbols(p), values, 1e-13)
    near(manifold.curvature_tensor(p).riemann, expected, 1e-12)
    near(manifold.curvature_tensor(p.expand(4, 3)).riemann[2], expected, 1e-12)


@pytest.mark.parametrize(
    ("metric", "points", "scalar"),
    [
        (metrics.euclidean(3), draw(1, 4, 3), lambda p: 0.0 * p[:, 0]),
        (metrics.sphere(1.7), 0.5 + draw(2, 4, 2), lambda p: 2 / 1.7**2 + 0 * p[:, 0]),
        (metrics.sphere(), 0.5 + draw(3, 4, 3), lambda p: 6.0 + 0 * p[:, 0]),
        (metrics.hyperbolic_half_space(), 0.5 + draw(4, 4, 2), lambda p: -2.0 + 0 * p[:, 0]),
        (metrics.hyperbolic_ball(), 0.3 * draw(5, 4, 3), lambda p: -6.0 + 0 * p[:, 0]),
        (metrics.cigar(), draw(6, 4, 2), lambda p: 4 / (1 + p.square().sum(1))),
        (metrics.torus_of_revolution(3.0, 1.0), draw(7, 4, 2), lambda p: 2 * p[:, 0].cos() / (3 + p[:, 0].cos())),
        (metrics.product(metrics.sphere(), 2, metrics.sphere(2.0)), 0.5 + draw(8, 4, 4), lambda p: 2.5 + 0 * p[:, 0]),
        (metrics.conformal(metrics.euclidean(2), lambda x: x.square().sum()), draw(9, 4, 2),
         lambda p: -8 * torch.exp(-2 * p.square().sum(1))),
    ],
)  # fmt: skip
def test_scalar_curvature(metric, points: Tensor, scalar) -> None:  # type: ignore[no-untyped-def]
    found = RiemannianManifold(metric, points.shape[1]).curvature_tensor(points)
    near(found.scalar, scalar(points))


def test_three_sphere_is_einstein() -> None:
    found = RiemannianManifold(metrics.sphere(), 3).curvature_tensor(0.5 + draw(10, 5, 3))
    near(found.ricci, 2 * found.metric)
    near(found.sectional(draw(11, 5, 3), -draw(12, 5, 3)), 1.0)
    assert not found.weyl.any()


def test_fubini_study() -> None:
    found = RiemannianManifold(metrics.fubini_study(), 4).curvature_tensor(draw(13, 6, 4) - 0.5)
    near(found.ricci, 6 * found.metric)
    v = draw(14, 6, 4) - 0.5
    jv = torch.cat([-v[:, 2:], v[:, :2]], dim=1)  # i v: a complex line
    near(found.sectional(v, jv), 4.0)
    across = draw(15, 6, 4) - 0.5
    g = found.metric
    for fixed in (v, jv):  # across, made orthogonal to the line: a totally real plane
        across = across - fixed * (torch.einsum("bij,bi,bj->b", g, across, fixed)
                                   / torch.einsum("bij,bi,bj->b", g, fixed, fixed))[:, None]  # fmt: skip
    near(found.sectional(v, across), 1.0)


def test_schwarzschild_is_empty() -> None:
    points = torch.tensor([[0.0, 5.0, 1.0, 0.3], [2.0, 9.0, 0.4, -1.0]], dtype=F64)
    found = RiemannianManifold(metrics.schwarzschild(1.5), 4).curvature_tensor(points)
    near(found.ricci, 0.0, 1e-12)
    near(found.kretschmann, 48 * 1.5**2 / points[:, 1] ** 6)
    near(found.weyl, found.lowered, 1e-12)


def _net(seed: int, dim: int) -> RiemannianManifold:
    return RiemannianManifold(MetricNet(dim, width=8, seed=seed, floor=0.3).requires_grad_(False), dim)


@settings(max_examples=10, derandomize=True, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2, 3, 4]))
def test_symmetries_of_curvature(seed: int, dim: int) -> None:
    points = draw(seed, 3, dim) - 0.5
    found = _net(seed, dim).curvature_tensor(points)
    r, scale = found.lowered, 1e-12 * (1 + float(found.lowered.abs().max()))
    near(found.riemann + found.riemann.permute(0, 1, 3, 4, 2) + found.riemann.permute(0, 1, 4, 2, 3), 0.0, 10 * scale)
    near(r + r.transpose(1, 2), 0.0, 10 * scale)
    near(r - r.permute(0, 3, 4, 1, 2), 0.0, 10 * scale)
    near(found.ricci - found.ricci.mT, 0.0, 10 * scale)
    near(torch.einsum("...lilj->...ij", torch.einsum("...lm,...mijk->...lijk", found.metric.inverse(), found.weyl)),
         0.0, 100 * scale)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=10, derandomize=True, deadline=None)
@given(st.integers(0, 2**32))
def test_scalar_curvature_survives_a_change_of_coordinates(seed: int) -> None:
    bend = (draw(seed, 3, 3) - 0.5) * 0.3

    def mapping(y: Tensor) -> Tensor:  # the identity and a small bend: invertible
        return y + torch.sin(bend @ y) + 0.1 * (bend @ y.square())

    original = _net(seed, 3)
    pulled = RiemannianManifold(metrics.pull_back(original.metric, mapping), 3)
    y = draw(seed + 1, 4, 3) - 0.5
    expected = original.curvature_tensor(vmap(mapping)(y)).scalar
    near(pulled.curvature_tensor(y).scalar, expected, 1e-9 * (1 + float(expected.abs().max())))
    u, v = draw(seed + 2, 2, 4, 3)
    slope = vmap(jacfwd(mapping))(y)
    pushed = tuple((slope @ w[..., None])[..., 0] for w in (u, v))
    near(pulled.metric_tensor(y, (u, v)), original.metric_tensor(vmap(mapping)(y), pushed), 1e-12)


def test_second_bianchi_identity() -> None:
    manifold, point = _net(3, 3), torch.tensor([0.2, -0.1, 0.4], dtype=F64)
    field = lambda x: manifold.curvature_tensor(x).riemann  # noqa: E731
    gamma, r = manifold.christoffel_symbols(point), field(point)
    slope = torch.stack([  # d_m R^l_ijk by central differences of order four
        sum(w * field(point + s * 1e-3 * e) for s, w in ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))) / 1e-3
        for e in torch.eye(3, dtype=F64)
    ])  # fmt: skip
    d = slope + torch.einsum("lma,aijk->mlijk", gamma, r)
    for letters in ("ami,lajk->mlijk", "amj,liak->mlijk", "amk,lija->mlijk"):
        d = d - torch.einsum(letters, gamma, r)
    near(d + d.permute(3, 1, 2, 4, 0) + d.permute(4, 1, 2, 0, 3), 0.0, 1e-8)  # fourth-order differences at 1e-3


def test_metric_compatibility_and_a_killing_field() -> None:
    manifold = _net(5, 3)
    points, w = draw(16, 4, 3), draw(17, 4, 3)

    def first(x: Tensor) -> Tensor:
        return torch.stack([x[1] * x[2], x[0].sin(), x[0] + x[1] ** 2])

    def second(x: Tensor) -> Tensor:
        return torch.stack([x[0].exp(), x[1] * x[0], x[2].cos()])

    left = torch.stack([jacfwd(lambda x: first(x) @ manifold.metric(x) @ second(x))(p) @ d
                        for p, d in zip(points, w, strict=True)])  # fmt: skip
    right = manifold.metric_tensor(points, (manifold.covariant_derivative(first, w, points), vmap(second)(points)))
    right = right + manifold.metric_tensor(
        points, (vmap(first)(points), manifold.covariant_derivative(second, w, points))
    )
    near(left, right, 1e-12)

    def rotation(x: Tensor) -> Tensor:  # round the first axis of the ambient space
        return torch.stack([-x[1].sin(), -x[1].cos() * x[0].cos() / x[0].sin()])

    at, u, v = 0.5 + draw(18, 4, 2), draw(19, 4, 2), draw(20, 4, 2)
    killing = SPHERE.metric_tensor(at, (SPHERE.covariant_derivative(rotation, u, at), v))
    killing = killing + SPHERE.metric_tensor(at, (SPHERE.covariant_derivative(rotation, v, at), u))
    near(killing, 0.0, 1e-13)


def great_circle(start: Tensor, velocity: Tensor, time: float) -> Tensor:
    embed = metrics.sphere_embedding()
    p, u = embed(start), jacfwd(embed)(start) @ velocity
    speed = u.norm()
    return p * (speed * time).cos() + u / speed * (speed * time).sin()


@pytest.mark.parametrize(("method", "order", "limit"), [
    ("rk4", 4, 1e-7), pytest.param("implicit_midpoint", 2, 1e-3, marks=pytest.mark.slow),
])  # fmt: skip
def test_great_circles(method: str, order: int, limit: float) -> None:
    start, velocity = torch.tensor([1.3, 0.2], dtype=F64), torch.tensor([0.3, 0.8], dtype=F64)
    errors = []
    for step in (0.05, 0.025):
        times = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
        flow = SPHERE.geodesic_flow(start, velocity, times, step=step, method=method)
        errors.append(max((metrics.sphere_embedding()(flow.states[k, 0]) - great_circle(start, velocity, t)).norm()
                          for k, t in enumerate(times.tolist())))  # fmt: skip
        speed = SPHERE.metric_tensor(flow.states[:, 0], (flow.states[:, 1], flow.states[:, 1]))
        near(speed, float(speed[0]), 100 * limit * step)
        assert flow.info["steps"] == round(1 / step)
    assert errors[1] < limit
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.2 * 2**order


@pytest.mark.slow
def test_half_plane_geodesics_are_semicircles() -> None:
    half = RiemannianManifold(metrics.hyperbolic_half_space(), 2)
    times = torch.linspace(0, 2, 9, dtype=F64)
    states = half.geodesic_flow(torch.tensor([0.0, 1.0], dtype=F64), torch.tensor([1.0, 0.0], dtype=F64), times).states
    near(states[:, 0].norm(dim=1), 1.0, 1e-8)
    near(states[:, 0, 0], times.tanh(), 1e-8)


@pytest.mark.slow
def test_clairaut() -> None:
    donut = RiemannianManifold(metrics.torus_of_revolution(3.0, 1.0), 2)
    start, velocity = draw(21, 4, 2), draw(22, 4, 2)
    states = donut.geodesic_flow(start, velocity, torch.linspace(0, 3, 7, dtype=F64), step=0.1).states
    assert states.shape == (7, 4, 2, 2)
    radius = 3 + states[..., 0, 0].cos()
    kept = radius.square() * states[..., 1, 1]  # r cos(alpha) times the speed
    near(kept, kept[:1].expand(7, 4), 1e-4)


@pytest.mark.slow
def test_distance_and_logarithm() -> None:
    points = torch.stack([0.8 + draw(23, 5), draw(24, 5)], dim=1)
    target = points + torch.tensor([0.3, 0.5], dtype=F64) * (draw(25, 5, 2) + 0.2)
    embed = vmap(metrics.sphere_embedding())
    expected = (embed(points) * embed(target)).sum(1).acos()
    near(SPHERE.distance(points, target, steps=24), expected, 1e-7)  # 24 steps of order four over less than one radian
    vector = torch.tensor([0.4, -0.3], dtype=F64)
    end = SPHERE.exp(points, vector, steps=8)
    near(SPHERE.log(points, end, steps=8), vector.expand(5, 2), 1e-9)
    near(SPHERE.distance(points[0], points[0], steps=4), 0.0)
    half = RiemannianManifold(metrics.hyperbolic_half_space(), 2)
    a, b = torch.tensor([[0.0, 1.0], [0.5, 2.0]], dtype=F64)
    near(half.distance(a, b, steps=24), math.acosh(1 + float((a - b).square().sum()) / (2 * 1.0 * 2.0)), 1e-6)


def test_volume_elements() -> None:
    near(SPHERE.volume_element(torch.tensor([1.1, 5.0], dtype=F64)), math.sin(1.1), 1e-15)
    points = torch.rand(3, 4, dtype=F64, generator=torch_generator(26))
    near(
        RiemannianManifold(metrics.fubini_study(), 4).volume_element(points), (1 + points.square().sum(1)) ** -3, 1e-14
    )


def test_induced_metric_of_the_sphere() -> None:
    point = torch.tensor([0.7, 1.0, 0.2], dtype=F64)
    pulled = metrics.pull_back(metrics.euclidean(4), metrics.sphere_embedding(2.0))
    near(pulled(point), metrics.sphere(2.0)(point), 1e-14)


def test_learned_metric_is_positive_and_differentiable() -> None:
    net = MetricNet(3, seed=4, floor=0.01)
    points = 100 * draw(27, 50, 3) - 50
    assert torch.linalg.eigvalsh(net(points)).min() >= 0.01 * (1 - 1e-9)
    assert torch.equal(net(points), MetricNet(3, seed=4, floor=0.01)(points))
    RiemannianManifold(net, 3).curvature_tensor(points[:2] / 100).scalar.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_gradients() -> None:
    manifold = RiemannianManifold(metrics.sphere(), 2)
    point = torch.tensor([[1.1, 0.4], [0.8, 2.0]], dtype=F64, requires_grad=True)
    u, v = (draw(s, 2, 2).requires_grad_() for s in (28, 29))
    assert torch.autograd.gradcheck(lambda p, a, b: manifold.metric_tensor(p, (a, b)), (point, u, v))
    assert torch.autograd.gradcheck(manifold.christoffel_symbols, (point,))
    assert torch.autograd.gradcheck(lambda p, a: manifold.exp(p, a, steps=4), (point, u))


def test_solve_stays_right_under_nested_maps() -> None:
    matrices, right = draw(30, 5, 2, 2) + 2 * torch.eye(2, dtype=F64), draw(31, 5, 3, 2, 4)
    nested = vmap(lambda a, b: vmap(lambda c: solve(a, c))(b))(matrices, right)
    near(matrices[:, None] @ nested, right, 1e-13)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: SPHERE.christoffel_symbols(torch.tensor([0.0, 1.0], dtype=F64)), "singular"),
        (lambda: SPHERE.curvature_tensor(torch.tensor([[1.0, math.nan]], dtype=F64)), "nan"),
        (lambda: SPHERE.at(torch.ones(3, dtype=F64)), r"\(3,\)"),
        (lambda: RiemannianManifold(lambda x: torch.ones(2, 3), 2).at(torch.ones(2)), r"\(2, 3\)"),
        (lambda: RiemannianManifold(lambda x: torch.eye(2) + torch.tensor([[0, 1.0], [0, 0]]), 2).at(torch.ones(2)),
         "transpose"),
        (lambda: SPHERE.curvature_tensor(torch.ones(2, dtype=F64)).sectional(torch.ones(2, dtype=F64),
                                                                            2 * torch.ones(2, dtype=F64)), "area"),
        (lambda: SPHERE.geodesic_flow(torch.ones(2), torch.ones(2), torch.tensor([-1.0, 0.0])), "-1"),
        (lambda: SPHERE.log(torch.tensor([0.1, 0.0], dtype=F64), torch.tensor([9.0, 40.0], dtype=F64), steps=2),
         "no geodesic"),
        (lambda: metrics.torus_of_revolution(1.0, 2.0), "radii 1.0 and 2.0"),
        (lambda: MetricNet(2, floor=0.0), "floor 0.0"),
    ],
)  # fmt: skip
def test_bad_input(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GeometryError, match=says):
        call()
