"""What a run of Ricci flow tends to: when it blows up, and how it looks at constant volume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.types import Trajectory

__all__ = ["Singularities", "detect_singularities", "normalize_flow"]


@dataclass(frozen=True)
class Singularities:
    """`times` [M] where the curvature exceeds the threshold; `blow_up_time`, infinite where none is in sight."""

    times: Tensor
    blow_up_time: float


def detect_singularities(trajectory: Trajectory, threshold: float) -> Singularities:
    """Times of large curvature, and the blow-up time: where a line through the later half of 1 / max|Rm| meets zero.

    Args:
        trajectory: Of `ricci_flow`.
        threshold: Of the largest |curvature|.

    Source: Hamilton 1995: at a singularity of type I, max|Rm| grows like 1 / (T - t).
    """
    curvature = torch.tensor([m.curvature_max for m in _measures(trajectory)], dtype=torch.float64)
    times = trajectory.times.to(torch.float64)
    half = len(times) // 2 if len(times) > 3 else 0
    if len(times) < 2 or not bool((curvature[half:] > 0).all()):
        return Singularities(times[curvature > threshold], math.inf)
    slope, height = np.polyfit(times[half:].numpy(), (1 / curvature[half:]).numpy(), 1)
    # a slope within the rounding of a flat line is a flow that stands still
    blows = slope * float(times[-1] - times[half]) < -1e-9 * abs(height)
    return Singularities(times[curvature > threshold], float(-height / slope) if blows else math.inf)


def normalize_flow(trajectory: Trajectory, mode: Literal["ricci", "volume", "none"]) -> Trajectory:
    """A run of Ricci flow at the volume of its start.

    Args:
        trajectory: Of `ricci_flow`.
        mode: "volume" rescales every metric by c = (V_0 / V)^(2/n). "ricci" also counts time by dt' = c dt, which turns
            the run into one of the volume-normalised flow dg/dt' = -2 Ric + (2/n) r g, r the mean of R. "none" changes
            nothing.

    Returns:
        A trajectory whose info["scale"] [K] holds c.

    Source: Hamilton 1982, section 3.
    """
    if mode not in ("ricci", "volume", "none"):
        raise GeometryError(f"the mode {mode!r}", hint="'ricci', 'volume' or 'none'")
    if mode == "none":
        return trajectory
    volumes = torch.tensor([m.volume for m in _measures(trajectory)], dtype=trajectory.states.dtype)
    scale = (volumes[0] / volumes) ** (2 / trajectory.info["dim"])
    wide = scale.reshape(-1, *[1] * (trajectory.states.ndim - 1))
    conformal = trajectory.info["conformal"]
    states = trajectory.states + 0.5 * wide.log() if conformal else trajectory.states * wide
    times = trajectory.times
    if mode == "ricci":
        times = torch.cat([times[:1], times[:1] + torch.cumulative_trapezoid(scale, times)])
    return Trajectory(states, times, {**trajectory.info, "scale": scale})


def _measures(trajectory: Trajectory):  # type: ignore[no-untyped-def]
    if "metrics" not in trajectory.info:
        raise GeometryError("the trajectory has no measures of its metrics", hint="pass what ricci_flow returned")
    return trajectory.info["metrics"]
