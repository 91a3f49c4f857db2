"""What was found, as the command shows it and as a document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.geometry.analysis.attention_reports import HeadReport
    from toolkit.geometry.analysis.findings import Finding
    from toolkit.geometry.analysis.quantization_stability import RangeUse

__all__ = ["Analysis", "LayerReport", "Progress"]

Progress = Callable[[str, float], None]
"""Told the step, and the share of it that is done."""


@dataclass(kw_only=True)
class LayerReport:
    """One layer. What was not asked, or cannot be, is None.

    Args:
        place: In the order of the graph; -1 for an input.
        width: Channels or features.
        dimension: Of these, how many directions the activations use: the participation ratio of their covariance.
        turning: By how much the straight line between two samples turns on its way through this layer, in radians.
        displacement: How far rounding moves the activations, in standard deviations of the layer's own.
        range_use: How the activations use the range that stores them.
        defect: The largest part of a channel's deviation that changes where the layer's images move.
        channel: The channel with that defect; `others` are the further ones beyond the limit.
    """

    name: str
    operator: str
    tensor: str
    place: int
    width: int
    dimension: float
    turning: float | None = None
    displacement: float | None = None
    range_use: RangeUse | None = None
    defect: float | None = None
    channel: int | None = None
    others: int = 0

    def to_json(self) -> dict[str, Any]:
        use = self.range_use
        return {
            "layer": self.name,
            "operator": self.operator,
            "width": self.width,
            "effective_dimension": _rounded(self.dimension),
            "total_turning_rad": _rounded(self.turning),
            "displacement_deviations": _rounded(self.displacement),
            "stored_range": [use.low, use.high] if use else None,
            "seen_range": [use.seen_low, use.seen_high] if use and use.values else None,
            "clipped_share": use.clipped_share if use else None,
            "lost_bits": _rounded(use.lost_bits) if use else None,
            "symmetry_defect": _rounded(self.defect),
            "symmetry_channel": self.channel,
        }


@dataclass(kw_only=True)
class Analysis:
    """What was found.

    Args:
        stack: Whose integers round the layers; empty where no target was named.
        heads: By attention, what its heads do.
        moved: By shift, the share of samples whose largest output stays where the whole image is moved by so many
            places down and right; empty where the model does not classify one image.
        findings: What is broken; empty for a healthy network.
        notes: What was not looked at, and why.
        before: The same of the network that this one was made of, where that was named.
    """

    model: str
    data: str
    samples: int
    stack: str
    layers: list[LayerReport]
    heads: dict[str, tuple[HeadReport, ...]] = field(default_factory=dict)
    moved: dict[int, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: Analysis | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        return {
            "schema": "toolkit.analyze/1",
            "model": self.model,
            "data": self.data,
            "samples": self.samples,
            "stack": self.stack or None,
            "findings": [finding.to_json() for finding in self.findings],
            "layers": [layer.to_json() for layer in self.layers],
            "attention": [
                {"attention": name, "heads": [{k: _plain(v) for k, v in asdict(head).items()} for head in heads]}
                for name, heads in self.heads.items()
            ],
            "same_answer_when_moved": [{"places": by, "share": share} for by, share in self.moved.items()],
            "notes": list(self.notes),
            "before": self.before.to_json() if self.before else None,
        }


def _rounded(value: float | None) -> float | None:
    """Six significant digits, so that fewer are rounded once; None for what was not measured, and for the infinite."""
    return None if value is None or not isfinite(value) else float(f"{value:.6g}")


def _plain(value: Any) -> Any:
    return _rounded(value) if isinstance(value, float) else value
