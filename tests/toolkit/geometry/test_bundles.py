"""Fibre bundles: projections, cocycles, connections, transport and Chern numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jvp

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns.cohomology import SimplicialCohomology, characteristic_classes, grid_torus
from toolkit.geometry.core.patterns.fiber_bundle import (
    ChartBundle,
    GraphBundle,
    MobiusBundle,
    MonopoleBundle,
    Patch,
    TangentBundle,
    TrivialBundle,
)
from toolkit.geometry.core.patterns.riemannian import RiemannianManifold, metrics
from toolkit.geometry.types import Chart, Path, SimplicialComplex
from toolkit.rng import torch_generator

F64 = torch.float64


def latitude(theta: float, steps: int, *, turns: float = 1.0) -> Path:
    phi = torch.linspace(0, turns * 2 * math.pi, steps + 1, dtype=F64)
    return Path(torch.stack([torch.full_like(phi, theta), phi], -1), torch.linspace(0, 1, steps + 1, dtype=F64))


def rotation_bundle() -> ChartBundle:
    """R^2 x R^3 with a connection in so(3) that does not commute with itself."""
    generators = torch.zeros(3, 3, 3, dtype=F64)
    for i, (a, b) in enumerate(((1, 2), (2, 0), (0, 1))):
        generators[i, a, b], generators[i, b, a] = -1.0, 1.0

    def connection(x: Tensor) -> Tensor:
        weights = torch.stack([torch.stack([x[1], x[0].sin(), x[0] * x[1]]), torch.stack([x[0].cos(), x[1], x[0]])])
        return torch.einsum("ig,gab->iab", weights, generators)

    return TrivialBundle(2, 3, connection)


def curve(steps: int) -> Path:
    t = torch.linspace(0, 1, steps + 1, dtype=F64)
    return Path(torch.stack([t, (3 * t).sin()], -1), t)


def test_projection_forgets_the_fibre() -> None:
    bundle = TrivialBundle(2, 3)
    x, v = torch.randn(4, 5, 2, dtype=F64), torch.randn(4, 5, 3, dtype=F64)
    assert torch.equal(bundle.bundle_projection(torch.cat([x, v], -1)), x)
    assert torch.equal(bundle.bundle_projection(torch.cat([x, v @ torch.randn(3, 3, dtype=F64)], -1)), x)
    monopole = MonopoleBundle(1)
    total = torch.cat([x.to(torch.complex128), torch.randn(4, 5, 1, dtype=torch.complex128)], -1)
    assert torch.equal(monopole.bundle_projection(total), x)


def test_a_product_is_flat() -> None:
    bundle = TrivialBundle(2, 3)
    section = torch.randn(3, generator=torch_generator(7), dtype=F64)
    assert torch.equal(bundle.parallel_transport(section, curve(5)), section)
    assert not bundle.curvature(torch.ones(2, dtype=F64)).any()
    base, fibre = bundle.local_trivialization(torch.cat([torch.ones(2, dtype=F64), section]))
    assert torch.equal(torch.cat([base.coordinates, fibre.coordinates]), torch.cat([torch.ones(2, dtype=F64), section]))


def test_trivialization_round_trip() -> None:
    bundle = MonopoleBundle(3)
    x = torch.tensor([[0.3, 0.4], [2.8, 1.0], [1.2, -2.0], [2.2, 5.0]], dtype=F64)
    v = torch.randn(4, 1, generator=torch_generator(0), dtype=torch.complex128)
    base, fibre = bundle.local_trivialization(torch.cat([x.to(v.dtype), v], -1), chart=0)
    assert base.index.tolist() == [0, 1, 0, 1]
    assert fibre.index.tolist() == base.index.tolist()
    assert torch.equal(base.coordinates, x)
    back = torch.stack([
        bundle.transition_functions(0, int(c))(p) @ f
        for c, p, f in zip(base.index, base.coordinates, fibre.coordinates, strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(back, v, rtol=0, atol=1e-12)


def test_moebius_frames_differ_by_a_sign() -> None:
    bundle = MobiusBundle()
    upper, lower = (torch.tensor([s * math.pi / 2], dtype=F64) for s in (1, -1))
    there = bundle.transition_functions(0, 1)(upper)
    back = bundle.transition_functions(1, 0)(bundle.coordinate_change(0, 1, lower))
    assert (there * back).item() == -1.0
    near_pi = torch.tensor([[-3.0, 2.0], [3.0, 2.0], [0.1, 2.0]], dtype=F64)
    base, fibre = bundle.local_trivialization(near_pi)
    assert base.index.tolist() == [1, 1, 0]
    torch.testing.assert_close(base.coordinates[:, 0], torch.tensor([2 * math.pi - 3.0, 3.0, 0.1], dtype=F64))
    assert fibre.coordinates[:, 0].tolist() == [-2.0, 2.0, 2.0]
    assert bundle.parallel_transport(torch.ones(1, dtype=F64), Path(near_pi[:2, :1], torch.arange(2.0))).item() == 1.0


def test_moebius_over_a_graph() -> None:
    signs = torch.tensor([1.0, 1.0, -1.0], dtype=F64).reshape(3, 1, 1)
    circle = GraphBundle(3, torch.tensor([[0, 1], [1, 2], [2, 0]]), signs)
    assert circle.holonomy([0, 1, 2, 0]).item() == -1.0
    assert characteristic_classes(circle).w1 == 1
    assert characteristic_classes(GraphBundle(3, circle.edges, signs.abs())).w1 == 0
    with pytest.raises(GeometryError, match=r"round the triangle \[0, 1, 2\]"):
        characteristic_classes(circle, complex_=SimplicialComplex.from_facets([(0, 1, 2)]))
    with pytest.raises(GeometryError, match="edge maps"):
        characteristic_classes(circle, complex_=SimplicialComplex.from_facets([(0, 1), (1, 2), (0, 2), (2, 3)]))


def test_w1_pairs_with_the_class_on_a_torus() -> None:
    torus = grid_torus(3, 3)
    edges = torus.simplices[1]
    closed = SimplicialCohomology(torus, 2).cohomology_classes(1)[0]
    maps = (1.0 - 2.0 * closed).to(F64).reshape(-1, 1, 1)
    assert characteristic_classes(GraphBundle(9, edges, maps), complex_=torus).w1 == 1
    gauge = torch.tensor([1.0, -1, 1, -1, 1, 1, -1, 1, 1], dtype=F64)
    exact = (gauge[edges[:, 0]] * gauge[edges[:, 1]]).reshape(-1, 1, 1)
    assert characteristic_classes(GraphBundle(9, edges, exact), complex_=torus).w1 == 0


def three_frames() -> ChartBundle:
    """One flat connection in three frames of R x R^2, which gives three charts that overlap everywhere."""

    def frame(rate: float) -> Tensor:
        return torch.tensor([[0.0, rate], [-rate, 0.3]], dtype=F64)

    def turned(rate: float, x: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(frame(rate) * x[0])

    def everywhere(x: Tensor) -> Tensor:
        return torch.ones(x.shape[:-1], dtype=torch.bool)

    rates = (0.2, 1.0, -0.7)
    patches = [Patch(Chart(f"frame {r}", 1, everywhere), lambda x: x[..., 0] * 0, lambda x, r=r: -frame(r)[None])
               for r in rates]  # fmt: skip
    pairs = {(i, j): lambda x, a=rates[i], b=rates[j]: turned(a, x) @ torch.linalg.inv(turned(b, x))
             for i, j in ((0, 1), (1, 2), (2, 0))}  # fmt: skip
    return ChartBundle(patches, pairs, 2)


def test_cocycle() -> None:
    bundle = three_frames()
    for x in torch.linspace(-1, 1, 5, dtype=F64)[:, None]:
        around = [bundle.transition_functions(i, (i + 1) % 3)(x) for i in range(3)]
        torch.testing.assert_close(around[0] @ around[1] @ around[2], torch.eye(2, dtype=F64), rtol=0, atol=1e-12)
        inverse = bundle.transition_functions(1, 0)(x)
        torch.testing.assert_close(around[0] @ inverse, torch.eye(2, dtype=F64), rtol=0, atol=1e-12)
    assert torch.equal(bundle.transition_functions(2, 2)(x), torch.eye(2, dtype=F64))


@pytest.mark.parametrize(("bundle", "pair"), [(three_frames(), (0, 1)), (MonopoleBundle(2), (0, 1)),
                                              (MonopoleBundle(-1), (1, 0))])  # fmt: skip
def test_gauge_change(bundle: ChartBundle, pair: tuple[int, int]) -> None:
    first, second = pair
    x = torch.tensor([0.9, 0.4], dtype=F64)[: bundle.base_dim]
    tangent = torch.tensor([0.3, -1.1], dtype=F64)[: bundle.base_dim]
    field = bundle.transition_functions(first, second)
    _, dg = jvp(field, (x,), (tangent,))
    g = field(x)
    before, after = (bundle.connection_form(x, tangent, chart=c) for c in pair)
    inverse = torch.linalg.inv(g)
    torch.testing.assert_close(after, inverse @ before @ g + inverse @ dg, rtol=0, atol=1e-12)


def test_monopole_potential_and_transition() -> None:
    bundle, x = MonopoleBundle(3), torch.tensor([1.1, 0.7], dtype=F64)
    along = bundle.connection_form(x, torch.tensor([0.0, 1.0], dtype=F64))
    torch.testing.assert_close(along.item(), 1.5j * (1 - math.cos(1.1)), rtol=0, atol=1e-15)
    torch.testing.assert_close(bundle.transition_functions(1, 0)(x).item(), complex(math.cos(2.1), math.sin(2.1)))
    for chart in (0, 1):
        strength = bundle.curvature(x, chart=chart)[0, 1, 0, 0]
        torch.testing.assert_close(strength.item(), 1.5j * math.sin(1.1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("charge", [-2, 0, 1, 3])
@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (14, 9)])
def test_monopole_charge_is_its_chern_number(charge: int, rows: int, columns: int) -> None:
    bundle = MonopoleBundle(charge)
    assert characteristic_classes(bundle, cells=bundle.cells(rows, columns)).c1 == charge
    with pytest.raises(GeometryError, match="turns"):
        MonopoleBundle(1).chern_number(bundle.cells(rows, columns)[:1])


@pytest.mark.parametrize("theta", [0.4, 1.0, 2.3])
def test_holonomy_of_a_latitude(theta: float) -> None:
    bundle = TangentBundle(RiemannianManifold(metrics.sphere(), 2))
    turn = bundle.holonomy(latitude(theta, 400), method="rk4")
    scale = torch.tensor([1.0, math.sin(theta)], dtype=F64)
    orthonormal = scale[:, None] * turn / scale
    angle = math.atan2(orthonormal[1, 0], orthonormal[0, 0])
    expected = 2 * math.pi * (1 - math.cos(theta))
    step = (
        2 * math.pi / 400 * abs(math.cos(theta))
    )  # the frame turns by this; one step of order four errs by step^5/120
    assert abs(math.remainder(angle - expected, 2 * math.pi)) < 1.05 * 400 * step**5 / 120


@pytest.mark.parametrize(("method", "order"), [("exponential", 2), ("rk4", 4)])
def test_transport_converges_with_its_order(method: str, order: int) -> None:
    bundle, line = rotation_bundle(), torch.tensor([[0.0, 0.0], [1.0, 0.8]], dtype=F64)

    def end(steps: int) -> Tensor:  # a straight line, cut finer: the only error is that of the steps
        cut = torch.linspace(0, 1, steps + 1, dtype=F64)
        return bundle.holonomy(Path(line[0] + cut[:, None] * (line[1] - line[0]), cut), method=method)

    truth = end(640) if order == 4 else end(5000)
    ratio = (end(10) - truth).norm() / (end(20) - truth).norm()
    assert 0.8 * 2**order < ratio < 1.2 * 2**order


def test_transport_stays_in_the_group_and_inverts() -> None:
    bundle, path = rotation_bundle(), curve(50)
    sections = torch.randn(6, 3, generator=torch_generator(1), dtype=F64)
    moved = bundle.parallel_transport(sections, path)
    torch.testing.assert_close(moved.norm(dim=-1), sections.norm(dim=-1), rtol=0, atol=1e-12)
    back = bundle.parallel_transport(moved, Path(path.points.flip(0), path.times))
    torch.testing.assert_close(back, sections, rtol=0, atol=1e-12)
    monopole = MonopoleBundle(1).parallel_transport(torch.ones(1, dtype=torch.complex128), latitude(1.0, 60))
    assert abs(abs(monopole.item()) - 1) < 1e-12


def test_curvature_is_the_holonomy_of_a_small_loop() -> None:
    bundle, corner = rotation_bundle(), torch.tensor([0.4, -0.2], dtype=F64)
    strength = bundle.curvature(corner)[0, 1]
    torch.testing.assert_close(bundle.curvature(corner[None])[0, 1, 0], -strength)
    errors = []
    for h in (0.02, 0.01):
        square = corner + h * torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]], dtype=F64) / 2
        fine = torch.cat([square[i] + torch.linspace(0, 1, 9, dtype=F64)[:-1, None] * (square[i + 1] - square[i])
                          for i in range(4)] + [square[-1:]])  # fmt: skip
        loop = bundle.holonomy(Path(fine, torch.arange(33, dtype=F64)), method="rk4")
        errors.append(((torch.eye(3, dtype=F64) - loop) / h**2 - strength).norm())
    assert errors[1] < 0.6 * errors[0]  # falls at least linearly with the side
    assert errors[1] < 0.05


@settings(max_examples=15, derandomize=True, deadline=None)
@given(st.integers(0, 2**32))
def test_graph_transport(seed: int) -> None:
    generator = torch_generator(seed)
    edges = torch.tensor([[0, 1], [2, 1], [2, 3], [0, 3], [0, 2]])
    maps = torch.linalg.qr(torch.randn(5, 3, 3, generator=generator, dtype=F64)).Q
    bundle = GraphBundle(4, edges, maps)
    section = torch.randn(2, 3, generator=generator, dtype=F64)
    moved = bundle.parallel_transport(section, [0, 1, 2, 3])
    torch.testing.assert_close(moved.norm(dim=-1), section.norm(dim=-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(bundle.parallel_transport(moved, [3, 2, 1, 0]), section, rtol=0, atol=1e-12)
    loop = bundle.holonomy([0, 1, 2, 0])
    expected = bundle.edge_map(0, 2) @ bundle.edge_map(2, 1) @ bundle.edge_map(1, 0)
    torch.testing.assert_close(loop, expected, rtol=0, atol=1e-12)
    table = bundle.dense()
    torch.testing.assert_close(table[1, 0], bundle.edge_map(1, 0), rtol=0, atol=1e-12)
    # a change of frames at every node changes attention's output by the frame of the query alone
    frames = torch.linalg.qr(torch.randn(4, 3, 3, generator=generator, dtype=F64)).Q
    turned = GraphBundle(4, edges, frames[edges[:, 0]] @ maps @ frames[edges[:, 1]].mT)
    weights = torch.rand(4, 4, generator=generator, dtype=F64) * (table.abs().sum((-2, -1)) > 0)
    values = torch.randn(2, 4, 3, generator=generator, dtype=F64)
    plain = bundle.transport_attention(weights, values)
    other = turned.transport_attention(weights, torch.einsum("nab,...nb->...na", frames, values))
    torch.testing.assert_close(other, torch.einsum("nab,...nb->...na", frames, plain), rtol=0, atol=1e-12)


EYE = torch.eye(2, dtype=F64)[None]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ChartBundle([], {}, 1), "dimension"),
        (lambda: TrivialBundle(2, 1).bundle_projection(torch.zeros(4)), "4"),
        (lambda: three_frames().transition_functions(0, 7), "no transition"),
        (lambda: MonopoleBundle(1).connection_form(torch.tensor([math.pi, 0.0], dtype=F64), torch.ones(2)), "north"),
        (lambda: MonopoleBundle(1).curvature(torch.tensor([0.5, 0.0]), chart=2), "chart 2 of 2"),
        (lambda: MonopoleBundle(1).curvature(torch.tensor([0.5, math.nan])), "nan"),
        (lambda: MonopoleBundle(1).parallel_transport(torch.ones(1), latitude(3.5, 3)), "outside"),
        (lambda: characteristic_classes(MonopoleBundle(1)), "cells"),
        (lambda: characteristic_classes(GraphBundle(2, torch.tensor([[0, 1]]), EYE + 0j)), "complex"),
        (lambda: GraphBundle(2, torch.tensor([[0, 1, 2]]), EYE), "edges"),
        (lambda: GraphBundle(2, torch.tensor([[0, 2]]), EYE), "no two nodes"),
        (lambda: GraphBundle(2, torch.tensor([[0, 1], [1, 0]]), EYE.repeat(2, 1, 1)), "repeated"),
        (lambda: GraphBundle(2, torch.tensor([[0, 1]]), torch.ones(1, 2, 2, dtype=F64)), "singular"),
        (lambda: GraphBundle(3, torch.tensor([[0, 1]]), EYE).edge_map(0, 2), "no edge"),
        (lambda: GraphBundle(3, torch.tensor([[0, 1]]), EYE).holonomy([0, 1]), "not closed"),
        (
            lambda: GraphBundle(3, torch.tensor([[0, 1]]), EYE).transport_attention(torch.ones(3, 3), torch.ones(3, 2)),
            "no edge",
        ),
    ],
)
def test_bad_input(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GeometryError, match=says):
        call()
