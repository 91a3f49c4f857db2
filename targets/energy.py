"""Energy beyond watts times seconds: shares of arithmetic and traffic by their work, and how long a battery lasts.

Joules per inference are the stack's measured active power times its latency (targets.cost), split over operators by
time. The other view here prices work in picojoules (`energy.toml`, each figure with its source) and gives shares.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import exp, hypot, isfinite, log
from typing import Any, Literal

from targets.errors import UsageError
from targets.estimate import Estimate
from targets.stack import Power
from targets.workload import ITEM_BYTES, Operator, Workload

__all__ = ["Duty", "WorkEnergy", "duty_of", "energy_interval", "work_energy"]

Figures = Mapping[str, Mapping[str, Any]]


# ---- by work


@dataclass(frozen=True, kw_only=True)
class WorkEnergy:
    """Picojoules of work, of an operator or of a network; they say how energy splits, not how much there is."""

    arithmetic_pj: float
    on_chip_pj: float
    dram_pj: float

    @property
    def total_pj(self) -> float:
        return self.arithmetic_pj + self.on_chip_pj + self.dram_pj

    @property
    def shares(self) -> dict[str, float]:
        """Parts of the whole by what the work is; they add up to one, or are zero where there is no work."""
        parts = {"arithmetic": self.arithmetic_pj, "on_chip": self.on_chip_pj, "dram": self.dram_pj}
        return {name: part / self.total_pj if self.total_pj else 0.0 for name, part in parts.items()}

    @classmethod
    def total(cls, parts: Iterable[WorkEnergy]) -> WorkEnergy:
        every = list(parts)
        return cls(
            arithmetic_pj=sum(part.arithmetic_pj for part in every),
            on_chip_pj=sum(part.on_chip_pj for part in every),
            dram_pj=sum(part.dram_pj for part in every),
        )


def work_energy(work: Workload) -> dict[str, WorkEnergy]:
    """Energy of each operator of `work` by its name: arithmetic, traffic on the chip, traffic to memory.

    Every tensor and every weight is counted as crossing the memory's pins once, which a large cache spares: an upper
    limit of the memory's share.
    """
    found: dict[str, WorkEnergy] = {}
    for op in work.operators:
        own = _of(op)
        found[op.name] = WorkEnergy.total([found[op.name], own]) if op.name in found else own
    return found


def _of(op: Operator) -> WorkEnergy:
    figures = _figures()
    arithmetic, traffic = figures["arithmetic"], figures["traffic"]
    moved = op.activation_bytes + op.weight_bytes
    fetched = op.macs / figures["reuse"]["macs_per_operand"] * ITEM_BYTES.get(op.dtype, 4)
    per_mac = arithmetic.get(op.dtype.removeprefix("u"), arithmetic["float32"])
    return WorkEnergy(
        arithmetic_pj=op.repeats * op.macs * per_mac,
        on_chip_pj=op.repeats * (fetched + moved) * traffic["on_chip"],
        dram_pj=op.repeats * moved * traffic["dram"],
    )


@cache
def _figures() -> Figures:
    figures: Figures = tomllib.loads(files("targets").joinpath("energy.toml").read_text("utf-8"))
    return figures


# ---- watts times seconds


def energy_interval(
    energy_j: float, latency_s: float, latency_interval_s: tuple[float, float], uncertainty: float
) -> tuple[float, float]:
    """Joules that hold the truth as often as the latency interval does: errors of power and of latency are
    independent, so their logarithms add up as squares. `uncertainty` is the relative half-width of the power."""
    low, high = (abs(log(bound / latency_s)) for bound in latency_interval_s)
    watts = log(1 + uncertainty)
    return energy_j * exp(-hypot(low, watts)), energy_j * exp(hypot(high, watts))


# ---- by the clock


@dataclass(frozen=True, kw_only=True)
class Duty:
    """A device that infers `per_second` times a second and waits otherwise.

    `most_per_second` is what it can do; `outcome` holds the rate against that. `average_w` is at the supply; `hours`
    are those of a battery of `battery_j` of which every joule arrives, None where no battery was named. Where the rate
    is more than the device can do, power and hours are those of a device that never waits.
    """

    per_second: float
    most_per_second: float
    most_per_second_interval: tuple[float, float]
    utilisation: float
    utilisation_interval: tuple[float, float]
    outcome: Literal["fits", "uncertain", "does not fit"]
    average_w: float
    average_interval_w: tuple[float, float]
    idle_w: float
    battery_j: float | None = None
    hours: float | None = None
    hours_interval: tuple[float, float] | None = None


def duty_of(
    estimate: Estimate, power: Power, *, per_second: float | None = None, battery_j: float | None = None
) -> Duty:
    """What `per_second` inferences a second draw, and how long a battery of `battery_j` lasts.

    Args:
        estimate: Of one inference, on the stack that `power` is of.
        per_second: As many as the device can do where None.

    Raises:
        UsageError: a number is negative or not finite.
    """
    if per_second is not None and not (isfinite(per_second) and per_second >= 0):
        raise UsageError(f"{per_second:g} inferences a second cannot be", hint="give a number from 0 up, such as 5")
    if battery_j is not None and not (isfinite(battery_j) and battery_j > 0):
        raise UsageError(f"a battery of {battery_j:g} J holds nothing", hint="give an energy, such as 37Wh")
    low_s, high_s = estimate.latency_interval_s
    most, most_interval = 1 / estimate.latency_s, (1 / high_s, 1 / low_s)
    rate = most if per_second is None else per_second
    busy, (least, largest) = rate / most, (rate * low_s, rate * high_s)
    if per_second is None:
        least = largest = busy = 1.0
    active_w = estimate.energy_j / estimate.latency_s
    watts = _average_w(power, active_w, busy)
    lowest = (1 - power.uncertainty) * _average_w(power, active_w, least)
    highest = (1 + power.uncertainty) * _average_w(power, active_w, largest)
    return Duty(
        per_second=rate,
        most_per_second=most,
        most_per_second_interval=most_interval,
        utilisation=busy,
        utilisation_interval=(least, largest),
        outcome="fits" if largest <= 1 else "uncertain" if least <= 1 else "does not fit",
        average_w=watts,
        average_interval_w=(lowest, highest),
        idle_w=power.idle_w,
        battery_j=battery_j,
        hours=battery_j / watts / 3600 if battery_j else None,
        hours_interval=(battery_j / highest / 3600, battery_j / lowest / 3600) if battery_j else None,
    )


def _average_w(power: Power, active_w: float, busy: float) -> float:
    """Idle power, and what inferring adds to it for the share of time it takes."""
    return power.idle_w + min(busy, 1.0) * (active_w - power.idle_w)
