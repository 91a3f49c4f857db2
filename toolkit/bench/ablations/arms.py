"""Arms that several ablations share; equal ones of one seed are trained once in a process."""

from __future__ import annotations

from toolkit.bench.ablations.learning import Organic, living, still
from toolkit.bench.ablations.presets import Preset
from toolkit.training.organism.rules import Births

__all__ = ["dynamic", "static"]


def dynamic(preset: Preset, *, births: Births = "archive", archive: str = "plain") -> Organic:
    """Founded with half of the heads; births and deaths up to as many as the preset has heads and half again."""
    founders = max(1, preset.heads // 2)
    return Organic(
        founders=founders, most=preset.heads + founders, rules=living(preset, births=births), archive=archive
    )


def static(preset: Preset, components: int, *, extra: int = 0) -> Organic:
    """`components` a layer for good, and one more in the first `extra` layers."""
    return Organic(founders=components, most=components + 1, rules=still(preset), extra=extra)
