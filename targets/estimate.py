"""An estimate: the sum of operator rows, each with its terms, its bound, its place and its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from html import escape
from typing import Any

from targets.latency import COVERAGE

__all__ = ["COVERAGE", "Estimate", "OperatorCost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCost:
    """What one operator costs: `terms` are seconds and add up to `latency_s`; `bound` names the largest."""

    name: str
    op_type: str
    op_class: str
    dtype: str
    place: str
    macs: int
    latency_s: float
    energy_j: float
    terms: Mapping[str, float]
    bound: str
    extrapolated: bool
    fused: tuple[str, ...] = ()
    module: str = ""
    source: str = ""
    reason: str = ""

    @property
    def where(self) -> str:
        """What its user calls it: a module of the network, else a line, else the node."""
        return self.module or self.source or self.name


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds, bytes and joules of one inference on one stack, with intervals and where they come from.

    `latency_interval_s` is meant to hold the truth for 80 % of networks where the stack is calibrated and nothing
    is extrapolated; `memory_parts_bytes` add up to the peak by cause; `assumed_dtype` is set when a float32 graph was
    priced in the stack's own precision. `instructions` are of one inference, None where none were counted on this
    stack; they say nothing of its time.
    """

    model: str
    stack: str
    runtime: str
    operators: tuple[OperatorCost, ...]
    fixed_s: float
    latency_s: float
    latency_interval_s: tuple[float, float]
    weight_bytes: int
    activation_bytes: int
    peak_memory_bytes: int
    memory_interval_bytes: tuple[int, int]
    memory_parts_bytes: Mapping[str, int]
    energy_j: float
    energy_interval_j: tuple[float, float]
    calibrated: bool
    extrapolated: bool
    provenance: str
    memory_provenance: str
    energy_provenance: str
    assumed_dtype: str = ""
    instructions: float | None = None
    instructions_interval: tuple[float, float] | None = None
    instructions_provenance: str = ""

    @property
    def fallbacks(self) -> tuple[OperatorCost, ...]:
        """Operators that the accelerator does not run."""
        return tuple(op for op in self.operators if op.reason)

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.operators)

    def planned(self, parts_bytes: Mapping[str, int]) -> Estimate:
        """The same with the memory of a program whose every byte was planned, in place of what was expected of it."""
        total = sum(parts_bytes.values())
        return replace(
            self,
            peak_memory_bytes=total,
            memory_interval_bytes=(total, total),
            memory_parts_bytes=dict(parts_bytes),
            memory_provenance="planned to the byte when the program was compiled",
        )

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        document = {f.name: getattr(self, f.name) for f in fields(self)}
        document["memory_parts_bytes"] = dict(self.memory_parts_bytes)
        document["operators"] = [_row(op) for op in self.operators]
        return {"schema": "toolkit.estimate/1", **document}

    def _repr_html_(self) -> str:
        low, high = self.latency_interval_s
        head = (
            f"<b>{escape(self.model)}</b> on {escape(self.stack)}: {self.latency_s * 1e3:.3g} ms "
            f"[{low * 1e3:.3g}, {high * 1e3:.3g}] ms, {self.peak_memory_bytes / 1e6:.3g} MB, "
            f"{self.energy_j * 1e3:.3g} mJ<br><small>{escape(self.provenance)}</small>"
        )
        rows = "".join(
            f"<tr><td>{escape(op.where)}</td><td>{escape(op.op_type)}</td><td>{escape(op.place)}</td>"
            f"<td>{op.latency_s * 1e6:.3g} µs</td><td>{escape(op.bound)}</td></tr>"
            for op in sorted(self.operators, key=lambda op: -op.latency_s)[:20]
        )
        return f"{head}<table>{rows}</table>"


def _row(op: OperatorCost) -> dict[str, Any]:
    """An operator as documents spell it: `class`, which Python keeps for itself, in place of `op_class`."""
    names = {"op_class": "class"}
    row = {names.get(f.name, f.name): getattr(op, f.name) for f in fields(op)}
    return {**row, "terms": dict(op.terms), "fused": list(op.fused)}
