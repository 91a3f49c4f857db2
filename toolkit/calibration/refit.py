"""Fit one stack to measured networks, and leave networks and families out to say how good the fit is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from targets.cost import apart
from targets.fitting import HeldOut, Measured, fit_stack, held_out
from targets.latency import LatencyFit
from targets.stack import Stack
from targets.support import place
from targets.target import Target, prior_of

__all__ = ["FEWEST_NETWORKS", "FEWEST_ROWS", "Refit", "own_part", "refit", "start_of"]

FEWEST_ROWS = 6
"""Below it a stack stays as it was: the interval, a quantile of what was left out, needs at least that."""

FEWEST_NETWORKS = 3

_MACHINES_DIFFER = 1.0
_CAUSES_DIFFER = 0.3
"""Standard deviations of the logarithms of costs between two machines with one runtime: of what all costs of a machine
have in common, and of each beside it. Read off the fitted stacks: ncnn on Raspberry Pi 3, 4, 5 and Zero 2 W differ by
factors of 1.7 to 11 as a whole, and each cost by 0.13 to 0.32 beside that."""


@dataclass(frozen=True)
class Refit:
    """A stack's new costs, and networks as a fit without them, or without their family, predicts them."""

    fit: LatencyFit
    by_network: HeldOut
    by_family: HeldOut


def refit(rows: Sequence[Measured], prior: LatencyFit, where: str) -> Refit:
    """Costs for the stack that `rows` were measured on; `where` names the device and runtime."""
    return Refit(
        fit_stack(rows, prior, where),
        held_out(rows, prior, lambda row: row.network),
        held_out(rows, prior, lambda row: row.family),
    )


def own_part(row: Measured, stack: Stack) -> Measured | None:
    """Time outside the stack's own costs set aside; None for a network of which a part would run on the host."""
    if any(p.reason for p in place(row.workload, stack)):
        return None
    own, elsewhere_s = apart(row.workload, stack)
    return replace(row, workload=own, extra_s=elsewhere_s)


def start_of(shipped: Target, stack: Stack) -> LatencyFit:
    """Where a refit to a user's rows starts: `stack` as shipped, and how far another machine may lie from it.

    Costs of a calibrated stack are those of its published rows, each as well known as they are there, and besides
    different on every machine. Costs of an uncalibrated one are those that its data sheet lets expect.
    """
    if not stack.latency.calibrated:
        return prior_of(shipped, stack.name)
    known = np.array(stack.latency.covariance)
    between = _MACHINES_DIFFER**2 + _CAUSES_DIFFER**2 * np.eye(len(known))
    return replace(stack.latency, covariance=(known + between).tolist())
