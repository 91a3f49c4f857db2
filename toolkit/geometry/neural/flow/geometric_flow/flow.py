"""Ricci flow: the tensor, one step with its measures, and a run of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor
from torch.func import jacfwd

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_positive_definite
from toolkit.geometry.core.patterns.riemannian import Curvature, tensors
from toolkit.geometry.grids import grid_gradient
from toolkit.geometry.linear import solve
from toolkit.geometry.neural.flow.geometric_flow.metrics_of_flow import (
    ConformalMetric,
    FlowMetric,
    SpaceForms,
    grid_curvature,
)
from toolkit.geometry.types import Field, GridField, Trajectory
from toolkit.geometry.validation.geometric.metric import verify_compatibility

__all__ = ["FlowMetrics", "compute_ricci_tensor", "flow_step", "measure", "ricci_flow"]


@dataclass(frozen=True)
class FlowMetrics:
    """A metric in numbers.

    Args:
        volume: Its volume (area on surfaces).
        scalar_min, scalar_max: The range of the scalar curvature R.
        total_scalar: The integral of R.
        curvature_max: The largest |sectional curvature|; for sampled metrics with n >= 3 the largest |Riemann|.
        min_eigenvalue: The smallest eigenvalue of g in its coordinates.
        suggested_dt: A step of half the explicit scheme's limit, that changes no length by more than a tenth.
    """

    volume: float
    scalar_min: float
    scalar_max: float
    total_scalar: float
    curvature_max: float
    min_eigenvalue: float
    suggested_dt: float


@overload
def compute_ricci_tensor(metric: GridField, connection: GridField | None = None) -> GridField: ...
@overload
def compute_ricci_tensor(metric: SpaceForms | ConformalMetric) -> Tensor: ...
@overload
def compute_ricci_tensor(metric: Field, connection: Field | None = None, *, at: Tensor | None = None) -> Field: ...
def compute_ricci_tensor(metric, connection=None, *, at=None):  # type: ignore[no-untyped-def]
    """Ric of a metric, in the representation that the metric has.

    Args:
        metric: A field [n] -> [n, n], a sampled metric, space forms, or a conformal metric.
        connection: Symbols G[l, i, j] in the metric's representation, if they are at hand; checked to be compatible.
        at: [M, n], where a connection of a field is checked.

    Returns:
        A field [n] -> [n, n]; a GridField [*S, n, n]; for space forms the factors c_i [F] of Ric = sum c_i g_i; for
        conformal metrics the factor K e^2u [H, W] of the background.

    Raises:
        GeometryError: the metric is singular, or the connection is not the metric's.

    Source: Topping 2006, "Lectures on the Ricci Flow".
    """
    if isinstance(metric, SpaceForms):
        return metric.squares.new_tensor([(n - 1) * sign for n, sign in zip(metric.dims, metric.signs, strict=True)])
    if isinstance(metric, ConformalMetric):
        return metric.gauss * (2 * metric.log_factor.values).exp()
    if isinstance(metric, GridField):
        return _sampled_ricci(metric, connection)
    if connection is None:
        return lambda point: tensors.ricci(tensors.riemann_field(metric)(point))
    if at is None:
        raise GeometryError("a connection without points to check it at", hint="pass at=[M, n]")
    report = verify_compatibility(metric, connection, at)
    if not report:
        raise GeometryError(
            f"the connection changes lengths: {report.value:.3g} exceeds {report.limit:.3g}",
            hint="leave it out, and the Levi-Civita connection is used",
        )
    return lambda point: tensors.ricci(tensors.riemann(connection(point), jacfwd(connection)(point)))


def _sampled_ricci(metric: GridField, connection: GridField | None) -> GridField:
    symbols = None
    if connection is not None:
        symbols, slope = connection.values, grid_gradient(metric)
        lowered = torch.einsum("...lki,...lj->...kij", symbols, metric.values)
        wrong = float((slope.movedim(-1, -3) - lowered - lowered.mT).abs().max())
        limit = 1e-6 * (1 + float(slope.abs().max()))  # both sides carry the grid's error
        if not wrong <= limit:
            raise GeometryError(
                f"the sampled connection changes lengths: {wrong:.3g} exceeds {limit:.3g}", hint="leave it out"
            )
    curvature = grid_curvature(metric, symbols)[1]
    ricci = tensors.ricci(curvature)
    return GridField(require_finite(0.5 * (ricci + ricci.mT), "Ric"), metric.spacing, metric.periodic)


def measure(metric: FlowMetric) -> FlowMetrics:
    """Volume, curvature and a step size, as numbers without gradients. See `FlowMetrics`."""
    with torch.no_grad():
        return _measured(metric)


def _measured(metric: FlowMetric) -> FlowMetrics:
    if isinstance(metric, SpaceForms):
        dims = metric.squares.new_tensor(metric.dims)
        scalar = (dims * (dims - 1) * metric.sectional).sum()
        largest, eigenvalue, diffusion = _curvature_of_forms(metric), metric.squares.min(), torch.zeros(())
        density, volume = metric.volume, float(metric.volume)
    elif isinstance(metric, ConformalMetric):
        gauss = metric.gauss
        scalar, largest, density = 2 * gauss, float(gauss.abs().max()), metric.area_density
        eigenvalue = (2 * metric.log_factor.values).exp().min()
        diffusion, volume = _stiffness(metric.log_factor) / eigenvalue, float(density.sum())
    else:
        require_positive_definite(metric.values, "the sampled metric")
        curvature = Curvature(metric.values, grid_curvature(metric)[1])
        scalar = curvature.scalar
        largest = float(
            scalar.abs().max() / 2 if len(metric.spacing) == 2 else curvature.kretschmann.abs().max().sqrt()
        )
        eigenvalue = torch.linalg.eigvalsh(metric.values).min()
        density = torch.linalg.det(metric.values).sqrt() * math.prod(metric.spacing)
        diffusion, volume = _stiffness(metric) / eigenvalue, float(density.sum())
    dt = min(0.1 / largest if largest else math.inf, 1 / float(diffusion) if float(diffusion) else math.inf)
    return FlowMetrics(
        volume=volume,
        scalar_min=float(scalar.min()),
        scalar_max=float(scalar.max()),
        total_scalar=float((scalar * density).sum()),
        curvature_max=largest,
        min_eigenvalue=float(eigenvalue),
        suggested_dt=dt,
    )


def _curvature_of_forms(metric: SpaceForms) -> float:
    return max((abs(float(k)) for k, n in zip(metric.sectional, metric.dims, strict=True) if n > 1), default=0.0)


def _stiffness(field: GridField) -> Tensor:
    """The largest eigenvalue of -div grad that the grid resolves."""
    return sum((torch.tensor((math.pi / h) ** 2, dtype=field.values.dtype) for h in field.spacing), torch.zeros(()))


def flow_step(metric: FlowMetric, ricci: Tensor | GridField, dt: float, *,
              deturck: bool = False) -> tuple[FlowMetric, FlowMetrics]:  # fmt: skip
    """g - 2 dt Ric, and the new metric in numbers.

    Args:
        metric: Space forms, a conformal metric, or a sampled metric.
        ricci: `compute_ricci_tensor(metric)`.
        dt: > 0; see `FlowMetrics.suggested_dt`.
        deturck: Of sampled metrics: add the Lie derivative along W^k = g^ij (G^k_ij - 0), which makes the flow
            strictly parabolic and changes the metric by a diffeomorphism alone.

    Raises:
        GeometryError: the new metric is not positive; a sampled metric of three or more dimensions is to flow without
            `deturck`: plain Ricci flow is only weakly parabolic, and its explicit steps amplify rounding.

    Source: Chow & Knopf 2004, "The Ricci Flow", chapters 2 and 3.
    """
    if not dt > 0:
        raise GeometryError(f"a step of {dt}", hint="dt must be positive")
    after: FlowMetric
    if isinstance(metric, SpaceForms) and isinstance(ricci, Tensor):
        after = SpaceForms(metric.dims, metric.signs, metric.squares - 2 * dt * ricci)
    elif isinstance(metric, ConformalMetric) and isinstance(ricci, Tensor):
        u = metric.log_factor
        factor = (2 * u.values).exp() - 2 * dt * ricci
        if not float(require_finite(factor, "the conformal factor").detach().min()) > 0:
            raise GeometryError(f"the conformal factor falls to {float(factor.min()):.3g}", hint="take a smaller dt")
        after = ConformalMetric(GridField(0.5 * factor.log(), u.spacing, u.periodic), metric.background_curvature)
    elif isinstance(metric, GridField) and isinstance(ricci, GridField):
        if len(metric.spacing) > 2 and not deturck:
            raise GeometryError(
                f"plain Ricci flow of a sampled metric in {len(metric.spacing)} dimensions is only weakly parabolic",
                hint="pass deturck=True, or flow space forms or a conformal metric",
            )
        change = -2 * ricci.values + (_deturck_term(metric) if deturck else 0.0)
        values = require_positive_definite(metric.values + dt * change, "the flowing metric")
        after = GridField(values, metric.spacing, metric.periodic)
    else:
        raise GeometryError(
            f"{type(metric).__name__} cannot flow along a {type(ricci).__name__}",
            hint="pass compute_ricci_tensor's answer",
        )
    return after, measure(after)


def _deturck_term(metric: GridField) -> Tensor:
    """nabla_i W_j + nabla_j W_i, [*S, n, n], against the flat background of the grid's coordinates."""
    symbols, _ = grid_curvature(metric)
    n = len(metric.spacing)
    inverse = solve(metric.values, torch.eye(n, dtype=metric.values.dtype).expand(metric.values.shape))
    field = torch.einsum("...ij,...lij,...lm->...m", inverse, symbols, metric.values)
    slope = grid_gradient(GridField(field, metric.spacing, metric.periodic)).mT  # [i, j] = d_i W_j
    covariant = slope - torch.einsum("...lij,...l->...ij", symbols, field)
    return covariant + covariant.mT


def ricci_flow(metric: FlowMetric, dt: float, steps: int, *, keep_every: int = 1, deturck: bool = False) -> Trajectory:
    """`steps` explicit steps of Ricci flow.

    Returns:
        states [K, ...]: squared radii, u, or the sampled metric, of the start and of every `keep_every`-th step;
        info["metrics"]: FlowMetrics of each; info["dim"]: n; info["ended"]: why the run stopped early, or None.

    A step that would leave the positive metrics ends the run: the trajectory then stops before the singularity.

    Raises:
        GeometryError: the first step already fails, or dt or the counts are not positive.
    """
    if steps < 1 or keep_every < 1:
        raise GeometryError(f"{steps} steps, one kept of {keep_every}", hint="both are 1 or more")
    states, times, measured, ended = [_values(metric)], [0.0], [measure(metric)], None
    for count in range(1, steps + 1):
        try:
            metric, now = flow_step(metric, compute_ricci_tensor(metric), dt, deturck=deturck)
        except GeometryError as error:
            if count == 1:
                raise
            ended = error.problem
            break
        if count % keep_every == 0:
            states.append(_values(metric))
            times.append(count * dt)
            measured.append(now)
    dim = (
        metric.dim
        if isinstance(metric, SpaceForms)
        else 2
        if isinstance(metric, ConformalMetric)
        else len(metric.spacing)
    )
    info = {"metrics": tuple(measured), "dim": dim, "conformal": isinstance(metric, ConformalMetric), "ended": ended}
    return Trajectory(torch.stack(states), torch.tensor(times, dtype=torch.float64), info)


def _values(metric: FlowMetric) -> Tensor:
    if isinstance(metric, SpaceForms):
        return metric.squares
    return metric.log_factor.values if isinstance(metric, ConformalMetric) else metric.values
