"""Operators taken down once: the same answers, fewer operators, and nothing that goes stale or leaks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jacfwd, vmap

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns.riemannian import MetricNet, RiemannianManifold, metrics
from toolkit.geometry.core.patterns.riemannian.tensors import christoffel_field, riemann_field
from toolkit.geometry.neural.flow.hamiltonian import Mechanical, leapfrog, yoshida4
from toolkit.geometry.runtime.memory import live_bytes
from toolkit.geometry.runtime.recording import Recorded
from toolkit.geometry.runtime.vectorization import VectorizationSystem
from toolkit.rng import torch_generator

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch_generator(seed, *shape), dtype=F64) + 0.5


def warped(point: Tensor) -> Tensor:
    """1 + u uᵀ with u = tanh x² and a constant turn."""
    u = torch.tanh(point.square()) @ torch.linspace(-1, 1, len(point) ** 2, dtype=point.dtype).reshape(len(point), -1)
    return torch.eye(len(point), dtype=point.dtype) + torch.outer(u, u)


@pytest.mark.parametrize(
    ("metric", "n"),
    [(metrics.sphere(), 2), pytest.param(metrics.sphere(), 3, marks=pytest.mark.slow),
     pytest.param(warped, 2, marks=pytest.mark.slow), pytest.param(warped, 3, marks=pytest.mark.slow),
     pytest.param(metrics.euclidean(3), 3, marks=pytest.mark.slow),
     pytest.param(metrics.hyperbolic_half_space(), 2, marks=pytest.mark.slow)],
)  # fmt: skip
@pytest.mark.parametrize("field", [christoffel_field, riemann_field])
def test_it_answers_as_the_function_does_in_fewer_operators(metric, n: int, field) -> None:
    plain = vmap(field(metric))
    recorded = Recorded(plain)
    recorded(drawn(5, n))
    for seed in (1, 2):
        x = drawn(5, n, seed=seed)
        with live_bytes() as ours:
            found = recorded(x)
        torch.testing.assert_close(found, plain(x), rtol=1e-13, atol=1e-14)
        with live_bytes() as whole:
            plain(x)
        assert ours.operators < whole.operators


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.integers(1, 6), st.integers(1, 4), st.sampled_from([torch.float32, F64]))
def test_every_shape_and_dtype_has_its_own(items: int, n: int, dtype: torch.dtype) -> None:
    recorded = SHARED
    x = drawn(items, n).to(dtype)
    found = recorded(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, -(2 * x + x.cos()), rtol=1e-6, atol=1e-6)


SHARED = Recorded(lambda x: -vmap(grad(lambda p: (p.square() + p.sin()).sum()))(x))


def test_gradients_and_transforms_pass_through_the_function_itself() -> None:
    calls = []

    def cubed(x: Tensor) -> Tensor:
        calls.append(1)
        return x**3

    recorded, x = Recorded(cubed), drawn(4)
    recorded(x)
    before = len(calls)
    recorded(x)
    assert len(calls) == before  # replayed
    wanting = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(recorded(wanting).sum(), wanting)
    torch.testing.assert_close(slope, 3 * x**2)
    torch.testing.assert_close(jacfwd(recorded)(x), torch.diag(3 * x**2))
    torch.testing.assert_close(vmap(recorded)(x[:, None]), x[:, None] ** 3)


@pytest.mark.parametrize(
    "function", [lambda x: x, lambda x: x.view(2, 2), torch.zeros_like, lambda x: torch.ones_like(x)[:2].expand(3, 2)]
)
def test_an_answer_belongs_to_the_caller(function) -> None:
    recorded, x = Recorded(function), drawn(4)
    first, wanted = recorded(x), function(x).clone()
    first.add_(5)
    torch.testing.assert_close(recorded(x), wanted)
    assert not torch.equal(first, wanted)


def test_writes_in_place_within_the_function_stay_within_it() -> None:
    def stepped(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for k in range(3):
            y[k] = x[k] * (k + 1)
            y.add_(1)
        return y

    recorded, x = Recorded(stepped), drawn(3)
    for _ in range(3):
        torch.testing.assert_close(recorded(x), stepped(x))
    torch.testing.assert_close(x, drawn(3))


def test_random_numbers_are_refused() -> None:
    with pytest.raises(GeometryError, match="would draw the same numbers at every call") as caught:
        Recorded(lambda x: x + torch.rand_like(x))(drawn(3))
    assert caught.value.hint


def test_what_is_still_trained_is_refused() -> None:
    net = MetricNet(2).double()
    recorded = RiemannianManifold(net, 2, recorded=True)
    with pytest.raises(GeometryError, match="wants a gradient") as caught:
        recorded.christoffel_symbols(drawn(3, 2))
    assert "detached" in caught.value.hint
    net.requires_grad_(False)
    wanted = RiemannianManifold(net, 2).christoffel_symbols(drawn(3, 2))
    torch.testing.assert_close(recorded.christoffel_symbols(drawn(3, 2)), wanted)


@pytest.mark.slow
def test_a_manifold_answers_the_same_recorded_or_not() -> None:
    points = drawn(7, 3)
    plain, recorded = (RiemannianManifold(metrics.sphere(), 3, recorded=flag) for flag in (False, True))
    for _ in range(2):
        torch.testing.assert_close(recorded.christoffel_symbols(points), plain.christoffel_symbols(points))
        torch.testing.assert_close(recorded.curvature_tensor(points).riemann, plain.curvature_tensor(points).riemann)
    with pytest.raises(GeometryError, match="singular"):
        recorded.christoffel_symbols(torch.zeros(7, 3, dtype=F64))


@pytest.mark.parametrize("walk", [leapfrog, yoshida4])
def test_orbits_are_the_same_recorded_or_not_and_a_force_is_taken_once_a_place(walk) -> None:
    seen = []

    def energy(q: Tensor) -> Tensor:
        seen.append(1)
        return (1 - q.cos()).sum() + 0.5 * (q.roll(-1) - q).square().sum()

    q, p = drawn(6, 4), drawn(6, 4, seed=1)
    wanted = walk(Mechanical(energy), q, p, dt=0.05, steps=4).states
    assert len(seen) == (4 if walk is leapfrog else 12) + 1
    seen.clear()
    system = Mechanical(energy, recorded=True)
    for _ in range(2):
        torch.testing.assert_close(walk(system, q, p, dt=0.05, steps=4).states, wanted, rtol=1e-13, atol=1e-13)
    assert len(seen) == 1  # the one time that it was taken down


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [None, 3])
def test_the_batched_entry_points_record_each_function(chunk: int | None) -> None:
    system, points = VectorizationSystem(chunk, record=True), drawn(8, 2)
    one, other = christoffel_field(metrics.sphere()), riemann_field(metrics.sphere())
    for _ in range(2):
        for field in (one, other):
            torch.testing.assert_close(system.vectorize_geometric_flow(field, points), vmap(field)(points))
    with live_bytes() as used:
        system.vectorize_geometric_flow(one, points)
    with live_bytes() as plain:
        VectorizationSystem(chunk).vectorize_geometric_flow(one, points)
    assert used.operators < plain.operators
