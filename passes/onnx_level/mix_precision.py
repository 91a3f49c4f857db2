"""Integers where they buy most and cost least: which layers stay in float is chosen, not tried in turn.

Each layer's noise at the outputs is measured alone, and noises of layers add up (to first order they are independent);
each layer's seconds, bytes or joules come from the stack's model. Who stays in float is then a small integer programme.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass
from passes.onnx_level.effects import Effects, measure
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.ranges import Method
from passes.onnx_level.sites import units
from passes.onnx_level.switchboard import Switchboard
from passes.onnx_level.unrounding import in_float
from passes.program import Program
from passes.proof import Proof
from targets.cost import estimate

__all__ = ["Choice", "MixPrecision", "choose", "front"]

_STEP_DB = 3.0  # asked for beyond the budget, where the set that was chosen did not reach it
_HIGHEST_DB = 60.0


@dataclass(frozen=True)
class Choice:
    """One layer: its part of the noise power at the outputs, and what its integers save, in the unit asked for."""

    name: str
    noise: float
    saving: float


@dataclass(frozen=True)
class MixPrecision(Pass):
    """QuantizeInt8 on the layers that a budget of noise allows, so that the network is the fastest it can be within it.

    Args:
        sqnr_db: The least of the worst output on calibration data; more where the proof's own budget asks for more.
        least: What is minimised: "latency", "size" or "energy", by the stack's model.
        looked_at: Samples that noise is measured on, layer by layer.
        activation, activation_symmetric, per_channel, ranges, samples: See QuantizeInt8.

    Source: the additive form of the noise, Nagel et al. 2021, arXiv:2106.08295, section 4; the choice as an integer
    programme, Yao et al. 2021 (HAWQ-V3), arXiv:2011.10680.
    """

    sqnr_db: float = 30.0
    least: Literal["latency", "size", "energy"] = "latency"
    looked_at: int = 8
    activation: Literal["uint8", "int8"] = "int8"
    activation_symmetric: bool = False
    per_channel: bool = True
    ranges: Method = "minmax"
    samples: int = 128
    kind = Kind.APPROXIMATE
    needs = QuantizeInt8.needs
    gives = QuantizeInt8.gives

    @property
    def _whole(self) -> QuantizeInt8:
        return QuantizeInt8(
            activation=self.activation,
            activation_symmetric=self.activation_symmetric,
            per_channel=self.per_channel,
            ranges=self.ranges,
            samples=self.samples,
        )

    def requires(self, program: Program, ctx: Context) -> None:
        self._whole.requires(program, ctx)

    def apply(self, program: Program, ctx: Context) -> Program:
        choices, _ = self._choices(program, ctx)
        chosen = choose(choices, 10 ** (-max(self.sqnr_db, ctx.budget.min_sqnr_db) / 10))
        whole = self._whole.apply(program, ctx)
        return in_float(whole, units(program, whole, by="reader"), chosen) if chosen else whole

    def notes(self, before: Program, after: Program, ctx: Context) -> tuple[str, ...]:
        """The front: how many layers in float buy which SQNR, and what that costs."""
        choices, whole = self._choices(before, ctx)
        unit, factor = {"latency": ("ms", 1e3), "size": ("kB", 1e-3), "energy": ("mJ", 1e3)}[self.least]
        return tuple(
            f"{count} layers in float: {-10 * np.log10(noise):.1f} dB expected, {(whole + cost) * factor:.4g} {unit}"
            for count, noise, cost in _thinned(list(front(choices)))
            if noise > 0
        )

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> Pass | None:
        wanted = max(self.sqnr_db, ctx.budget.min_sqnr_db) + _STEP_DB
        return replace(self, sqnr_db=wanted) if wanted <= _HIGHEST_DB else None

    def _choices(self, program: Program, ctx: Context) -> tuple[list[Choice], float]:
        """Every layer, and the cost of the network with all of them in integers; found once for a graph."""
        key = f"choices {self._whole.settings} {self.least} {self.looked_at}"
        return program.kept(key, lambda: self._measured(program, ctx))

    def _measured(self, program: Program, ctx: Context) -> tuple[list[Choice], float]:
        assert ctx.data is not None
        whole = self._whole.apply(program, ctx)
        board = Switchboard(program, whole, by="reader")
        effects = measure(board, ctx.data.take(self.looked_at), without=0, progress=ctx.progress)
        base = self._cost(whole, ctx)
        savings = {unit.name: self._cost(in_float(whole, board.units, {unit.name}), ctx) - base for unit in board.units}
        return list(_joined(effects, savings)), base

    def _cost(self, program: Program, ctx: Context) -> float:
        if self.least == "size":
            return float(len(program.onnx_bytes))
        found = estimate(program.static_model, ctx.stack, as_is=True, quick=True)
        return found.latency_s if self.least == "latency" else found.energy_j


def _joined(effects: Effects, savings: Mapping[str, float]) -> Iterator[Choice]:
    for effect in effects.effects:
        noise = 10 ** (-effect.alone_db / 10) if effect.alone_db < inf else 0.0
        yield Choice(effect.unit.name, noise, savings[effect.unit.name])


def choose(choices: Sequence[Choice], most_noise: float) -> set[str]:
    """The layers to leave in float so that the others' noise stays within `most_noise` and least saving is lost.

    Exact: a binary programme of one row. Every layer whose integers save nothing is left in float as well.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    free = {c.name for c in choices if c.saving <= 0 or c.noise > most_noise}
    left = [c for c in choices if c.name not in free]
    if not left or sum(c.noise for c in left) <= most_noise:
        return free
    saving = np.array([c.saving for c in left])
    noise = np.array([c.noise for c in left]) / most_noise  # the solver's tolerances are absolute
    found = milp(-saving / saving.max(), integrality=np.ones(len(left)), bounds=Bounds(0, 1),
                 constraints=LinearConstraint(noise[None, :], ub=1.0))  # fmt: skip
    kept = np.round(found.x) if found.x is not None else np.zeros(len(left))
    return free | {c.name for c, integers in zip(left, kept, strict=True) if not integers}


def front(choices: Sequence[Choice]) -> Iterator[tuple[int, float, float]]:
    """(layers in float, noise that is left, cost added), the best ratio of noise to cost first: the greedy bound."""
    order = sorted(choices, key=lambda c: (c.saving > 0, -c.noise / c.saving if c.saving > 0 else 0.0, c.name))
    cost = 0.0
    for count in range(len(order) + 1):
        yield count, sum(c.noise for c in order[count:]), cost
        cost += order[count].saving if count < len(order) else 0.0


def _thinned(points: Sequence[tuple[int, float, float]], count: int = 8) -> list[tuple[int, float, float]]:
    """At most so many of them, evenly, the ends among them."""
    if len(points) <= count:
        return list(points)
    return [points[round(i * (len(points) - 1) / (count - 1))] for i in range(count)]
