"""Each check of metrics and flows with something that passes and something that must not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns.riemannian import metrics
from toolkit.geometry.core.patterns.riemannian.tensors import christoffel_field
from toolkit.geometry.grids import grid_gradient
from toolkit.geometry.neural.flow import geometric_flow as gf
from toolkit.geometry.types import CheckReport, GridField, Trajectory
from toolkit.geometry.validation.geometric.flow import (
    check_energy_monotonicity,
    check_long_time_existence,
    verify_maximum_principle,
)
from toolkit.geometry.validation.geometric.metric import (
    check_curvature_bounds,
    check_positive_definite,
    verify_compatibility,
)
from toolkit.rng import torch_generator

F64 = torch.float64


def test_positive_definite() -> None:
    root = torch.randn(6, 4, 4, generator=torch_generator(0), dtype=F64)
    report = check_positive_definite(root @ root.mT + torch.eye(4, dtype=F64))
    assert report
    assert report.value >= 1.0 > report.limit
    minkowski = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=F64))
    failing = check_positive_definite(minkowski)
    assert not failing
    assert failing.value == pytest.approx(-1)
    assert not failing.detail["cholesky"]
    assert not check_positive_definite(root[..., :2] @ root[..., :2].mT)
    skew = torch.eye(3, dtype=F64)
    skew[0, 1] = 0.5
    assert not check_positive_definite(skew)
    assert check_positive_definite(skew).detail["asymmetry"] == 0.5
    with pytest.raises(GeometryError, match="nan"):
        check_positive_definite(torch.full((2, 2), math.nan))


def test_compatibility() -> None:
    sphere, at = metrics.sphere(), torch.tensor([[0.7, 0.1], [1.2, 3.0]], dtype=F64)
    assert verify_compatibility(sphere, christoffel_field(sphere), at)
    flat = verify_compatibility(sphere, lambda x: x.new_zeros(2, 2, 2), at)
    assert not flat
    assert flat.value == pytest.approx(math.sin(1.4), rel=1e-12)
    assert torch.equal(flat.detail["at"], at[0])

    def twisted(x: Tensor) -> Tensor:  # frames parallel along (theta, phi): keeps lengths, with torsion
        symbols = x.new_zeros(2, 2, 2)
        return symbols.index_put((torch.tensor(1), torch.tensor(0), torch.tensor(1)), x[0].cos() / x[0].sin())

    report = verify_compatibility(sphere, twisted, at)
    assert report
    assert report.detail["torsion"] == pytest.approx(1 / math.tan(0.7), rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "at", "low", "high", "proved"),
    [
        (metrics.sphere(), torch.tensor([[0.7, 0.5]], dtype=F64), 1.0, 1.0, True),
        (metrics.sphere(), torch.tensor([[0.7, 0.5, 0.2], [1.0, 1.1, 0.0]], dtype=F64), 1.0, 1.0, True),
        (
            metrics.product(metrics.sphere(), 2, metrics.sphere()),
            torch.tensor([[0.7, 0, 1.3, 2]], dtype=F64),
            0,
            1,
            True,
        ),
        (metrics.fubini_study(), torch.tensor([[0.2, 0.1, -0.4, 0.3], [0, 0, 0, 0]], dtype=F64), 1.0, 4.0, False),
    ],
)
def test_curvature_bounds(metric, at: Tensor, low: float, high: float, proved: bool) -> None:  # type: ignore[no-untyped-def]
    report = check_curvature_bounds(metric, at, (low, high))
    assert report
    assert report.detail["proved"] is proved
    assert report.detail["found"] == pytest.approx((low, high), abs=1e-9)
    below, above = report.detail["enclosure"]
    assert below <= low + 1e-9
    assert above >= high - 1e-9
    assert not check_curvature_bounds(metric, at, (low, high - 0.1) if high > low else (low + 0.1, high + 0.1))
    assert not check_curvature_bounds(metric, at, (low + 0.1, high + 0.1))


def test_curvature_bounds_refuse_nonsense() -> None:
    at = torch.tensor([[0.0, 5.0, 1.0, 0.3]], dtype=F64)
    with pytest.raises(GeometryError, match="indefinite"):
        check_curvature_bounds(metrics.schwarzschild(1.0), at, (-1.0, 1.0))
    with pytest.raises(GeometryError, match="bounds"):
        check_curvature_bounds(metrics.euclidean(4), at, (1.0, -1.0))


SIZE = 20
LAPLACIAN = (
    2 * torch.eye(SIZE, dtype=F64) - torch.eye(SIZE, dtype=F64).roll(1, 0) - torch.eye(SIZE, dtype=F64).roll(-1, 0)
)
START = torch.randn(SIZE, generator=torch_generator(1), dtype=F64)


def run(step: Tensor, start: Tensor = START, steps: int = 12) -> Trajectory:
    states = [start]
    for _ in range(steps):
        states.append(step @ states[-1])
    return Trajectory(torch.stack(states), torch.arange(steps + 1, dtype=F64))


EYE = torch.eye(SIZE, dtype=F64)
IMPLICIT, EXPLICIT = torch.linalg.inv(EYE + 3.0 * LAPLACIAN), EYE - 0.9 * LAPLACIAN


def dirichlet(x: Tensor) -> Tensor:
    return x @ LAPLACIAN @ x


def bumpy_run() -> Trajectory:
    """Ricci flow of a torus whose metric is e^2u times the flat one, [K, 8, 8] of u."""
    turn = torch.arange(8, dtype=F64) * math.tau / 8
    u = 0.2 * (turn.cos()[:, None] + (turn[:, None] + 2 * turn).sin())
    metric = gf.ConformalMetric(GridField(u, (math.tau / 8, math.tau / 8), (True, True)))
    return gf.ricci_flow(metric, gf.measure(metric).suggested_dt, 20, keep_every=5)


def slope(u: Tensor) -> Tensor:
    """The integral of |grad u|^2, which Ricci flow of a conformal torus never raises."""
    return grid_gradient(GridField(u, (math.tau / 8, math.tau / 8), (True, True))).square().mean()


def test_energy_of_heat_and_of_waves() -> None:
    assert check_energy_monotonicity(run(IMPLICIT), dirichlet)
    wave = torch.linalg.matrix_exp(0.3 * torch.cat([torch.cat([0 * EYE, EYE], 1), torch.cat([-LAPLACIAN, 0 * EYE], 1)]))
    still = torch.cat([0 * START, START])  # all energy in motion: the potential part rises at once
    report = check_energy_monotonicity(run(wave, still), lambda z: dirichlet(z[:SIZE]))
    assert not report
    assert report.detail["first_violation"] == 1
    assert report.value > report.limit
    metric = gf.SpaceForms((2,), (1,), torch.tensor([2.0], dtype=F64))
    assert check_energy_monotonicity(gf.ricci_flow(metric, 0.01, 5), lambda state: state.sum())
    torus = bumpy_run()
    assert check_energy_monotonicity(torus, slope)
    backwards = check_energy_monotonicity(Trajectory(torus.states.flip(0), torus.times, {}), slope)
    assert not backwards
    assert backwards.detail["first_violation"] == 1
    with pytest.raises(GeometryError, match="nan"):
        check_energy_monotonicity(run(IMPLICIT), lambda x: x.sum() * math.nan)


def test_maximum_principle() -> None:
    fine = verify_maximum_principle(run(IMPLICIT), EYE + 3.0 * LAPLACIAN)
    assert fine
    assert fine.detail["m_matrix"]
    over_the_limit = verify_maximum_principle(run(EXPLICIT), EXPLICIT)
    assert not over_the_limit
    assert not over_the_limit.detail["m_matrix"]
    assert over_the_limit.value > 0.1
    assert not verify_maximum_principle(run(IMPLICIT), LAPLACIAN).detail["m_matrix"]  # singular


def test_scalar_curvature_never_falls() -> None:
    sphere = gf.SpaceForms((3,), (1,), torch.tensor([2.0], dtype=F64))
    assert verify_maximum_principle(gf.ricci_flow(sphere, 0.01, 20))
    assert verify_maximum_principle(bumpy_run())
    flow = gf.ricci_flow(sphere, 0.01, 20)
    backwards = {**flow.info, "metrics": flow.info["metrics"][::-1]}
    assert not verify_maximum_principle(Trajectory(flow.states.flip(0), flow.times, backwards))


def test_long_time_existence() -> None:
    hyperbolic = gf.SpaceForms((3,), (-1,), torch.tensor([1.0], dtype=F64))
    report = check_long_time_existence(gf.ricci_flow(hyperbolic, 0.05, 20), 1e6)
    assert report
    assert report.value == math.inf
    assert "extrapolation" in report.detail["evidence"]
    sphere = gf.SpaceForms((3,), (1,), torch.tensor([2.0], dtype=F64))
    short = gf.ricci_flow(sphere, 0.01, 10)
    assert check_long_time_existence(short, 0.4)
    failing = check_long_time_existence(short, 0.6)
    assert not failing
    assert failing.value == pytest.approx(0.5, rel=1e-2)
    assert not check_long_time_existence(gf.ricci_flow(sphere, 0.01, 100), 0.4)  # it did end


def test_a_report_is_its_verdict() -> None:
    assert bool(CheckReport(True, 1.0, 2.0)) is True
    assert bool(CheckReport(False, 3.0, 2.0)) is False
