"""Instructions of an inference: fitted to counts of emulated cores as latencies are fitted to times, and no time.

A count is made of the same causes as a latency (targets.latency), each with a number of instructions for a unit of its
work. It says how much a processor has to do: two cores, or two kinds of instructions, take different times for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from targets.coefficients import check, fit_of
from targets.errors import InvalidInput
from targets.fitting import HeldOut, Measured, fit_stack, held_out
from targets.latency import ARITHMETIC, CAUSES, LatencyFit, Lowering
from targets.overlay import COUNTED, is_current, own_fits
from targets.stack import Stack
from targets.workload import Workload

__all__ = ["Count", "count_of", "counted_fit", "fit_counts", "prior_counts"]

_UNITS: Mapping[str, float] = {
    "fixed": 3e4, "launch": 3e3, "convolution": 0.5, "winograd": 0.25, "matmul": 0.6, "depthwise": 1.5,
    "recurrent": 1.0, "windows": 1.0, "sums": 1.5, "patches": 1.0, "transforms": 2.0, "activations": 0.2,
    "weights": 0.1, "packing": 0.1,
}  # fmt: skip
"""Instructions for a unit of each cause, before any was counted: four lanes of a vector, one load for two sums."""

_SPREAD = 1.0  # standard deviation of their logarithms: a factor of three either way
_SIZE_MARGIN = 2.0  # as in targets.cost
_OUTSIDE_FACTOR = 3.0


@dataclass(frozen=True, kw_only=True)
class Count:
    """Instructions of one inference, with an interval that holds 80 % of networks like those counted."""

    instructions: float
    interval: tuple[float, float]
    provenance: str


def prior_counts() -> LatencyFit:
    """What a fit starts from: the same for every stack."""
    return LatencyFit(
        costs=dict(_UNITS),
        covariance=[[_SPREAD**2 if a == b else 0.0 for b in CAUSES] for a in CAUSES],
        scatter=0.3,
        quantile=1.6,
        lowering=Lowering(),
        rows=0,
        networks=0,
        seen_causes=frozenset(),
        seen_macs=(0, 0),
        provenance="not counted",
    )


def fit_counts(rows: Sequence[Measured], prior: LatencyFit, stack: Stack) -> tuple[LatencyFit, HeldOut, HeldOut]:
    """Instructions for a unit of each cause, and counts of networks and of families that the fit had not seen.

    Args:
        rows: `latency_s` holds instructions.
    """
    where = f"{stack.machine or stack.target}, one thread, QEMU"
    return (
        fit_stack(rows, prior, where),
        held_out(rows, prior, lambda row: row.network),
        held_out(rows, prior, lambda row: row.family),
    )


def count_of(work: Workload, stack: Stack) -> Count | None:
    """Instructions of one inference of `work`, which is in the precision of `stack`; None where none were counted."""
    found = counted_fit(stack)
    if found is None:
        return None
    fit, own = found
    by_cause = dict.fromkeys(CAUSES, 0.0) | {"fixed": fit.fixed_s}
    foreign = 0.0
    for op in work.operators:
        terms = {cause: op.repeats * number for cause, number in fit.terms(op).items()}
        for cause, number in terms.items():
            by_cause[cause] += number
        if not fit.seen_causes.issuperset(terms.keys() & ARITHMETIC) or not op.static or op.op_class == "unknown":
            foreign += sum(terms.values())
    total = sum(by_cause.values())
    shrink, grow = fit.interval({cause: number / total for cause, number in by_cause.items()})
    least, most = fit.seen_macs
    outside = not least / _SIZE_MARGIN <= work.macs <= most * _SIZE_MARGIN
    factor = _OUTSIDE_FACTOR if outside else 1 + (_OUTSIDE_FACTOR - 1) * foreign / total
    said = "; this network lies outside of those counted, the interval is widened" if factor > 1 else ""
    return Count(
        instructions=total,
        interval=(total * shrink / factor, total * grow * factor),
        provenance=f"{'your own counts: ' if own else ''}{fit.provenance}{said}; a count, no time",
    )


@cache
def _shipped(target: str) -> Mapping[str, Any]:
    file = files("targets") / COUNTED / f"{target}.json"
    found: Mapping[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found


def counted_fit(stack: Stack) -> tuple[LatencyFit, bool] | None:
    """The fit to counts on `stack`, and whether it is the user's own; None where there is none.

    Raises:
        InvalidInput: the user's own are damaged.
    """
    entry = own_fits(stack.target, COUNTED).get(stack.name)
    if entry and is_current(entry):
        try:
            fit = fit_of(entry["latency"], Lowering())
            check(fit)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"your counts of {stack.id} are damaged: {error}", hint=f"toolkit calibrate {stack.id} --forget"
            ) from error
        return fit, True
    shipped = _shipped(stack.target).get(stack.name)
    return (fit_of(shipped, Lowering()), False) if shipped else None
