"""Checks of a flow: energies that fall, extremes that stay, and how long it can go on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_square
from toolkit.geometry.neural.flow.geometric_flow.singularities import detect_singularities
from toolkit.geometry.types import CheckReport, Field, Trajectory

__all__ = ["check_energy_monotonicity", "check_long_time_existence", "verify_maximum_principle"]


def check_energy_monotonicity(trajectory: Trajectory, energy: Field, tol: float = 1e-10) -> CheckReport:
    """Whether energy(state) never rises by more than `tol` times its largest size.

    `value` is the largest rise over that size, `limit` is `tol`; detail: "energies" [K], and "first_violation", the
    position of the first state that lies too high, or None.

    Raises:
        GeometryError: the energy is no number, or not finite.
    """
    energies = torch.stack([torch.as_tensor(energy(state)).detach() for state in trajectory.states])
    if energies.ndim != 1 or not bool(energies.isfinite().all()):
        raise GeometryError(f"energies come as {energies.flatten()[:4].tolist()}", hint="one finite number a state")
    rises = energies.diff() / energies.abs().max().clamp(min=torch.finfo(energies.dtype).tiny)
    bad = (rises > tol).nonzero().flatten().tolist()
    value = float(rises.max()) if len(rises) else 0.0
    return CheckReport(not bad, value, tol, {"energies": energies, "first_violation": bad[0] + 1 if bad else None})


def verify_maximum_principle(trajectory: Trajectory, operator: Tensor | None = None, tol: float = 1e-10) -> CheckReport:
    """Whether a flow keeps inside the range of its start.

    A run of Ricci flow (its info has measures): the least scalar curvature never falls. Any other run: states [K, ...]
    are scalars under diffusion, whose maximum never rises and whose minimum never falls. `value` is the largest
    violation over the size of the states, `limit` is `tol`.

    Args:
        operator: [N, N], of an implicit step (I + dt L) x' = x, or -L of an explicit one: detail["m_matrix"] says
            whether it is an M-matrix (off the diagonal not positive, row sums not negative, invertible), which
            guarantees the principle for implicit steps.

    Raises:
        GeometryError: a state, or an entry of the operator, is not finite.

    Source: Varga 2000, "Matrix Iterative Analysis"; Topping 2006 for the scalar curvature.
    """
    measures = trajectory.info.get("metrics")
    if measures is not None:
        low = torch.tensor([m.scalar_min for m in measures], dtype=torch.float64)
        fall = -low.diff()
        scale = low.abs().max()
    else:
        flat = require_finite(trajectory.states, "a state").flatten(1)
        fall = torch.maximum(flat.amax(1).diff(), -flat.amin(1).diff())
        scale = flat.abs().max()
    value = float(fall.max() / scale) if len(fall) and float(scale) else 0.0
    detail = {} if operator is None else {"m_matrix": _is_m_matrix(operator, tol)}
    return CheckReport(value <= tol, value, tol, detail)


def _is_m_matrix(operator: Tensor, tol: float) -> bool:
    size = float(require_square(operator, "the operator").abs().max())
    off = operator - torch.diag(operator.diagonal())
    regular = float(torch.linalg.svdvals(operator)[-1]) > tol * size
    return float(off.max()) <= tol * size and float(operator.sum(1).min()) >= -tol * size and regular


def check_long_time_existence(trajectory: Trajectory, horizon: float) -> CheckReport:
    """Evidence, not proof, that a Ricci flow goes on until `horizon`.

    Passes when the run did not end early, every state is finite, every metric stayed positive and the blow-up time
    extrapolated from 1 / max|Rm| lies beyond the horizon: `value` is that time, `limit` the horizon.

    Args:
        trajectory: Of `ricci_flow`.
    """
    blow_up = detect_singularities(trajectory, math.inf).blow_up_time
    finite = bool(trajectory.states.isfinite().all())
    positive = min(m.min_eigenvalue for m in trajectory.info["metrics"]) > 0
    ended = trajectory.info.get("ended")
    detail = {"finite": finite, "positive": positive, "ended": ended, "evidence": "extrapolation of the curvature"}
    return CheckReport(blow_up > horizon and finite and positive and ended is None, blow_up, horizon, detail)
