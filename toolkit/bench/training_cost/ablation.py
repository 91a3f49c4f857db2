"""What an ablation is: a task, the same training with and without a method, and what was claimed for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from toolkit.bench.training_cost.metering import Meter

__all__ = ["CLAIMED", "CLAIMED_IN_ALL", "FACTORS", "Ablation", "Arm"]

Arm = Callable[[int, Meter], None]
"""From a seed to a training, whose costs and qualities go to the meter."""

CLAIMED: Mapping[str, float] = {
    "analytic_gradient": 50.0,
    "koopman": 100.0,
    "compression": 100.0,
    "kernels": 10.0,
    "algorithms": 10.0,
    "data": 10.0,
}
"""The factors that the design documents multiply."""

CLAIMED_IN_ALL = 1e9
"""What they give as the product; the factors above make half of it."""

FACTORS = tuple(CLAIMED)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One method beside the training without it.

    Args:
        name: As in `methods`.
        factor: Which of the claimed factors the method belongs to.
        claimed: What the design documents claim for the method alone; None where they name no figure.
        task: Data, network and what quality is, in one line.
        arms: By name; the first is the baseline.
        headline: The arm that enters the ledger, chosen before it was measured.
        cost: What the verdict goes by: `time_s`, `flops`, `samples`, or one of the meter's own.
        costs: Those that are printed.
        margin: How far below the baseline's last quality "equal" reaches, in its unit.
        goal: A quality that both have to reach instead.
        version: Raised when arms change in code that is not in the method's own file.
        missing: Says what is not installed, empty where all is.
        devices: Kinds of device that it says something of.
        note: What the reader has to know of the figure, in one line.
    """

    name: str
    factor: str
    task: str
    arms: Mapping[str, Arm]
    headline: str
    claimed: float | None = None
    cost: str = "flops"
    costs: tuple[str, ...] = ("time_s", "flops", "samples")
    margin: float = 0.0
    goal: float | None = None
    version: int = 1
    missing: Callable[[], str] = lambda: ""
    devices: tuple[str, ...] = ("cpu", "cuda")
    note: str = ""

    def __post_init__(self) -> None:
        if self.factor not in FACTORS:
            raise ValueError(f"{self.name}: factor {self.factor!r} is none of {', '.join(FACTORS)}")
        if len(self.arms) < 2 or self.headline not in list(self.arms)[1:]:
            raise ValueError(f"{self.name}: the headline {self.headline!r} is no arm beside the baseline")

    def hindered(self, device: str) -> str:
        """Why it cannot be measured on `device` here; empty where it can."""
        kind = device.partition(":")[0]
        return self.missing() if kind in self.devices else f"wants --device {' or '.join(self.devices)}"

    @cached_property
    def baseline(self) -> str:
        """Name of the arm that the others are held against."""
        return next(iter(self.arms))

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the arms that are held against it."""
        return tuple(self.arms)[1:]
