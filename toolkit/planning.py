"""What an engineer plans a device with: an estimate at the setting it runs at, its energy by work, duty and battery."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from passes.program import Program
from targets.cost import estimate
from targets.energy import Duty, WorkEnergy, duty_of, work_energy
from targets.estimate import Estimate
from targets.graph import read_workload
from targets.stack import Stack
from toolkit.driver import program_on, sprawls
from toolkit.varying_sizes import size_notes

__all__ = ["Plan", "plan_model"]

WORK_PROVENANCE = "arithmetic and cache at 45 nm (Horowitz, by way of PMC8934428); memory commonly quoted, not verified"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An estimate, the stack it is for, the energy of each operator by its work and, where asked for, the duty.

    `notes` say at which sizes inputs that may vary were priced.
    """

    estimate: Estimate
    stack: Stack
    by_work: dict[str, WorkEnergy]
    duty: Duty | None = None
    notes: tuple[str, ...] = ()

    @property
    def work(self) -> WorkEnergy:
        """Of the whole network."""
        return WorkEnergy.total(self.by_work.values())

    def to_json(self) -> dict[str, Any]:
        """The estimate's document with the setting, the second view of energy and the duty."""
        setting = {"mode": self.stack.power_mode, "threads": self.stack.threads}
        document = self.estimate.to_json()
        return {
            **document,
            "setting": {**setting, "sustained": self.stack.setting.sustained},
            "power": {"active_w": self.stack.power.active_w, "idle_w": self.stack.power.idle_w},
            "energy_by_work": {**self.work.shares, "provenance": WORK_PROVENANCE},
            "duty": asdict(self.duty) if self.duty else None,
            "notes": list(self.notes),
        }


def plan_model(
    model: Any = None,
    *,
    target: str,
    as_is: bool = False,
    per_second: float | None = None,
    battery_j: float | None = None,
    **options: Any,
) -> Plan:
    """What one inference of `model` costs on `target`, and what a device costs that makes `per_second` of them.

    Args:
        options: Those of `toolkit.driver.estimate_model`: among them `mode`, `threads` and `sustained`.
        battery_j: Energy of the battery; without `per_second` the device infers back to back.

    Raises:
        UsageError: a rate or a battery cannot be, or the device has no such setting.
        InvalidInput: the size of an input varies beside its batch, and is not stated.
    """
    program, stack = program_on(model, target=target, **options)
    graph = program.static_model
    work = read_workload(graph, fuses=stack.fuses)
    found = replace(estimate(work, stack, as_is=as_is), model=program.name)
    asked = per_second is not None or battery_j is not None
    return Plan(
        estimate=found,
        stack=stack,
        by_work=work_energy(work.at_precision(found.assumed_dtype) if found.assumed_dtype else work),
        duty=duty_of(found, stack.power, per_second=per_second, battery_j=battery_j) if asked else None,
        notes=(*size_notes(program), *_as_it_stands(program)),
    )


def _as_it_stands(program: Program) -> tuple[str, ...]:
    if not sprawls(program):
        return ()
    count = program.graph.num_nodes()
    return (f"priced as it stands: {count:,} operators are too many to fold and fuse the graph for an estimate",)
