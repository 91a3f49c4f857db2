"""Latency, memory and energy of a workload on a stack. The one place that is asked what operators cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log10
from typing import TYPE_CHECKING

from targets.counts import count_of
from targets.energy import energy_interval
from targets.estimate import Estimate, OperatorCost
from targets.latency import ARITHMETIC, LatencyFit
from targets.memory import peak_memory
from targets.operators import MAC_CLASSES
from targets.scaling import beside
from targets.stack import Stack
from targets.support import Placement, place
from targets.target import load_stack
from targets.workload import Operator, Workload

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["apart", "estimate"]

_CONVERSIONS = frozenset({"DequantizeLinear", "QuantizeLinear"})
_FOREIGN_FACTOR = 3.0  # either way, on the time of operators that lie outside what was measured
_SIZE_MARGIN = 2.0  # a network may have half or twice the arithmetic of those measured before it counts as outside
_WIDEN_PER_DECADE = 0.5  # assumed: relative widening of the interval for each factor of ten beyond that


def estimate(model: Workload | ir.Model, stack: Stack, *, as_is: bool = False, quick: bool = False) -> Estimate:
    """What one inference of `model` costs on `stack`.

    Args:
        model: A workload, or an ONNX graph with static, inferred shapes.
        stack: Where it would run, or its name as `toolkit targets` lists it, `target/stack`.
        as_is: Price a float32 graph as float32 even where the stack would run it in its own lower precision: on
            the stack's `float_stack`, where it names one.
        quick: For searches: totals without rows, and activations bounded by what is alive at once instead of planned.

    Raises:
        InvalidInput: a graph input has a dimension without a value.
        UnknownName: there is no stack of this name.
    """
    if isinstance(stack, str):
        stack = load_stack(stack)
    work = model if isinstance(model, Workload) else _read(model, stack)
    assumed = ""
    if work.is_float32 and stack.dtype != "float32":
        if as_is and stack.float_stack:
            return estimate(work, beside(stack, stack.float_stack), quick=quick)
        if not as_is:
            work, assumed = work.at_precision(stack.dtype), stack.dtype
    places = place(work, stack)
    bill = _Bill(stack, rows=not quick)
    for op, where in zip(work.operators, places, strict=True):
        bill.add(op, where)
    bill.stream(_excess_bytes(work, places, stack))
    fixed_s, power = stack.latency.fixed_s, stack.power
    latency_s = fixed_s + bill.latency_s
    outside = _decades_outside(work.macs, stack.latency)
    low, high = bill.interval(1 + _WIDEN_PER_DECADE * outside)
    energy_j = power.active_w * fixed_s + bill.energy_j
    memory = peak_memory(work, stack, quick=quick)
    counted = None if quick else count_of(work, stack)
    return Estimate(
        model=work.name,
        stack=stack.id,
        runtime=stack.describe(),
        operators=tuple(bill.rows),
        fixed_s=fixed_s,
        latency_s=latency_s,
        latency_interval_s=(low, high),
        weight_bytes=work.weight_bytes,
        activation_bytes=memory.activation_bytes,
        peak_memory_bytes=memory.peak_bytes,
        memory_interval_bytes=memory.interval_bytes,
        memory_parts_bytes=memory.parts,
        energy_j=energy_j,
        energy_interval_j=energy_interval(energy_j, latency_s, (low, high), power.uncertainty),
        calibrated=stack.latency.calibrated,
        extrapolated=bill.foreign_s > 0 or outside > 0,
        provenance="; ".join(filter(None, (stack.provenance, work.branches))),
        memory_provenance=memory.provenance,
        energy_provenance=f"{power.active_w:.3g} W ± {power.uncertainty:.0%} while active ({power.source}) x latency"
        + ("; what the host runs at the host's own power" if stack.rules else ""),
        assumed_dtype=assumed,
        instructions=counted.instructions if counted else None,
        instructions_interval=counted.interval if counted else None,
        instructions_provenance=counted.provenance if counted else "",
    )


def apart(work: Workload, stack: Stack) -> tuple[Workload, float]:
    """The part of `work` that the stack's own costs are for, and the seconds of everything else: operators on the
    host, copies over the link, streamed weights."""
    if not stack.rules:
        return work, 0.0
    places = place(work, stack)
    bill = _Bill(stack, rows=True)
    for op, where in zip(work.operators, places, strict=True):
        bill.add(op, where)
    bill.stream(_excess_bytes(work, places, stack))
    own = tuple(op for op, where in zip(work.operators, places, strict=True) if where.place == stack.rules)
    elsewhere_s = sum(
        row.latency_s if row.place != stack.rules else row.terms.get("transfer", 0.0) for row in bill.rows
    )
    return replace(work, operators=own, shared_weight_bytes=0, shared_kept_bytes=0), elsewhere_s


def _read(model: ir.Model, stack: Stack) -> Workload:
    from targets.graph import read_workload

    return read_workload(model, fuses=stack.fuses)


def _fit_for(op: Operator, stack: Stack) -> tuple[LatencyFit, bool]:
    """The costs that hold for the element type this operator computes in, and whether they are really its own.

    A conversion moves floats, and costs what floats do: a byte of integers is four times as many elements.
    """
    if stack.float_stack and (op.dtype == "float32" or op.op_type in _CONVERSIONS):
        return beside(stack, stack.float_stack).latency, True
    return stack.latency, op.op_class not in MAC_CLASSES or op.dtype.removeprefix("u") == stack.dtype


class _Bill:
    """What operators add up to: seconds by cause for each set of costs, those that were never measured apart."""

    def __init__(self, stack: Stack, *, rows: bool) -> None:
        self.stack, self.keeps_rows = stack, rows
        self.rows: list[OperatorCost] = []
        self.latency_s = self.energy_j = self.foreign_s = 0.0
        self.foreign = 0.0, 0.0  # the interval of foreign_s
        self.by_cause: dict[int, tuple[LatencyFit, dict[str, float]]] = {
            id(stack.latency): (stack.latency, {"fixed": stack.latency.fixed_s})
        }

    def add(self, op: Operator, where: Placement) -> None:
        runs_on = beside(self.stack, self.stack.host) if where.place == "host" else self.stack
        fit, trusted = _fit_for(op, runs_on)
        terms = fit.terms(op)
        if where.crosses:
            terms["transfer"] = where.crosses / self.stack.link_bytes_s
        if op.repeats != 1:
            terms = {cause: op.repeats * seconds for cause, seconds in terms.items()}
        latency_s = sum(terms.values())
        unseen = fit.calibrated and not fit.seen_causes.issuperset(terms.keys() & ARITHMETIC)
        foreign = unseen or not trusted or not op.static or op.op_class == "unknown"
        self.latency_s += latency_s
        self.energy_j += latency_s * runs_on.power.active_w
        if foreign:
            self.foreign_s += latency_s
            _, known = fit.interval({cause: seconds / latency_s for cause, seconds in terms.items()})
            factor = max(_FOREIGN_FACTOR, known)
            self.foreign = self.foreign[0] + latency_s / factor, self.foreign[1] + latency_s * factor
        else:
            total = self.by_cause.setdefault(id(fit), (fit, {}))[1]
            for cause, seconds in terms.items():
                total[cause] = total.get(cause, 0.0) + seconds
        if self.keeps_rows:
            self.rows.append(_row(op, where, terms, latency_s, runs_on.power.active_w, foreign))

    def stream(self, excess_bytes: int) -> None:
        """Weights that do not fit the accelerator's own memory cross the link at every inference."""
        if excess_bytes <= 0:
            return
        stack = self.stack
        latency_s = excess_bytes / stack.link_bytes_s
        energy_j = latency_s * stack.power.active_w
        self.latency_s += latency_s
        self.energy_j += energy_j
        own = self.by_cause[id(stack.latency)][1]
        own["transfer"] = own.get("transfer", 0.0) + latency_s
        if self.keeps_rows:
            self.rows.append(
                OperatorCost(
                    name="parameter streaming",
                    op_type="Stream",
                    op_class="copy",
                    dtype=stack.dtype,
                    place="link",
                    macs=0,
                    latency_s=latency_s,
                    energy_j=energy_j,
                    terms={"transfer": latency_s},
                    bound="transfer",
                    extrapolated=False,
                )
            )

    def interval(self, widen: float) -> tuple[float, float]:
        """Each part within what its own stack's costs are worth; what was never measured within a wide factor."""
        low, high = self.foreign[0], self.foreign[1]
        for fit, terms in self.by_cause.values():
            total_s = sum(terms.values())
            shrink, grow = fit.interval({cause: seconds / (total_s or 1) for cause, seconds in terms.items()})
            low, high = low + total_s * shrink, high + total_s * grow
        return low / widen, high * widen


def _row(
    op: Operator, where: Placement, terms: dict[str, float], latency_s: float, power_w: float, foreign: bool
) -> OperatorCost:
    return OperatorCost(
        name=op.name,
        op_type=op.op_type,
        op_class=op.op_class,
        dtype=op.dtype,
        place=where.place,
        macs=round(op.macs * op.repeats),
        latency_s=latency_s,
        energy_j=latency_s * power_w,
        terms=terms,
        bound=max(terms, key=terms.__getitem__),
        extrapolated=foreign,
        fused=op.fused,
        module=op.module,
        source=op.source,
        reason=where.reason,
    )


def _excess_bytes(work: Workload, places: Sequence[Placement], stack: Stack) -> int:
    """Weights on the accelerator beyond what it holds itself."""
    if not stack.parameter_cache_bytes:
        return 0
    held = sum(op.weight_bytes for op, where in zip(work.operators, places, strict=True) if where.place == stack.rules)
    return held - stack.parameter_cache_bytes


def _decades_outside(total_macs: int, fit: LatencyFit) -> float:
    """How many factors of ten the network's arithmetic, at least one operation, lies beyond what was measured."""
    if not fit.calibrated:
        return 0.0
    macs, least, most = (max(count, 1) for count in (total_macs, *fit.seen_macs))
    return max(0.0, log10(least / macs / _SIZE_MARGIN), log10(macs / most / _SIZE_MARGIN))
