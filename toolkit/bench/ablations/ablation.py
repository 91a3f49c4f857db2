"""What an ablation is: one question, arms that differ in one switch, and the contrasts that answer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from toolkit.bench.ablations.comparing import Better, Compared, compare, holm
from toolkit.bench.ablations.presets import Preset

__all__ = ["Ablation", "Contrast", "Measures", "compared"]

Measures = Mapping[str, float]
"""What one arm measured from one seed, by name; the unit is in the name."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """`arm` against `against` in one measure; differences within `margin` do not matter."""

    arm: str
    against: str
    measure: str
    margin: float
    better: Better = "lower"

    @property
    def name(self) -> str:
        """As it is printed and kept."""
        return f"{self.measure}: {self.arm} - {self.against}"


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One question.

    Args:
        name: A1 to A11.
        rule: What has to hold for the switch to stay on, in one line.
        run: All arms from one seed, so that they share what the seed decides.
        conclude: What follows, from the contrasts by name and the mean of each measure by arm.
        simulated: Whether nothing was run on what the question is about.
        gpus: How many it needs.
    """

    name: str
    question: str
    arms: tuple[str, ...]
    rule: str
    run: Callable[[int, Preset], Mapping[str, Measures]]
    contrasts: tuple[Contrast, ...]
    conclude: Callable[[Mapping[str, Compared], Mapping[str, Measures]], str]
    simulated: bool = False
    gpus: int = 0
    note: str = ""


def compared(what: Ablation, runs: Sequence[Mapping[str, Measures]]) -> dict[str, Compared]:
    """Every contrast of `what`, corrected for their number."""
    found = {}
    for contrast in what.contrasts:
        arm, other = ([run[name][contrast.measure] for run in runs] for name in (contrast.arm, contrast.against))
        found[contrast.name] = compare(arm, other, margin=contrast.margin, better=contrast.better)
    return holm(found)
