"""What is worth a sentence: each kind of finding with the limit at which it is one, and why it lies there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from toolkit.geometry.analysis.attention_reports import HeadReport
from toolkit.geometry.analysis.quantization_stability import RangeUse

__all__ = ["LIMITS", "Finding", "Limit", "about_attention", "about_dimension", "about_displacement", "about_range",
           "about_symmetry"]  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """A number, its unit, and where it comes from."""

    value: float
    unit: str
    why: str


LIMITS = {
    "constant": Limit(
        0.0, "directions",
        "a layer whose answer is the same for every sample and place, to rounding, tells the next one nothing",
    ),
    "range": Limit(
        1.0, "bit",
        "clipping a little is what good ranges do; past one bit, the layer would be better off with 7 bits that "
        "hold every value than with the 8 that it has",
    ),
    "displaced": Limit(
        1.0, "standard deviations",
        "rounding moves the layer as far as the samples themselves do: noise as strong as the signal",
    ),
    "symmetry": Limit(
        0.05, "deviations of the channel",
        "a sum that falls on the other side of a rounding moves one place by 1/255 of the range, which is some ten "
        "deviations wide: 4 %; sums in float32 differ by far less",
    ),
    "even attention": Limit(
        0.01, "of the weight",
        "a head this close to an even spread moves its answer by no more than 1 % of the values' diameter away from "
        "their plain mean, which costs no attention",
    ),
    "one-key attention": Limit(
        0.99, "of the queries",
        "queries that give 99 % of their weight to one key copy it, to 1 % of the values' diameter; where 99 % of the "
        "queries do, the softmax is saturated, and neither rounding nor training moves it",
    ),
}  # fmt: skip
"""By kind of finding."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is broken.

    Args:
        kind: A key of `LIMITS`.
        layer: Where.
        value: What was measured, in the limit's unit.
        text: What that means, as a sentence.
        remedy: What to do next.
    """

    kind: str
    layer: str
    value: float
    text: str
    remedy: str

    @property
    def limit(self) -> Limit:
        return LIMITS[self.kind]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"limit": self.limit.value, "unit": self.limit.unit, "why": self.limit.why}


def about_dimension(layer: str, dimension: float) -> Iterator[Finding]:
    """A layer that answers the same to everything."""
    if dimension <= LIMITS["constant"].value:
        yield Finding(
            kind="constant", layer=layer, value=dimension, text="answers the same to every sample, at every place",
            remedy="its weights or its bias died in training or pruning: train it anew, or take it out",
        )  # fmt: skip


def about_range(layer: str, use: RangeUse) -> Iterator[Finding]:
    """A layer whose outputs left the range that its integers store."""
    if use.lost_bits > LIMITS["range"].value:
        yield Finding(
            kind="range", layer=layer, value=use.lost_bits,
            text=f"left its range: values from {use.seen_low:.4g} to {use.seen_high:.4g}, stored from {use.low:.4g} "
            f"to {use.high:.4g}; {use.clipped_share:.1%} are clipped, which costs {use.lost_bits:.1f} bits",
            remedy="calibrate on samples like these, or with ranges that cover all that is seen (minmax)",
        )  # fmt: skip


def about_displacement(layer: str, moved: float) -> Iterator[Finding]:
    """A layer that rounding moves as far as the data do."""
    if moved >= LIMITS["displaced"].value:
        yield Finding(
            kind="displaced", layer=layer, value=moved,
            text=f"is moved by rounding {moved:.2g} standard deviations of its own activations",
            remedy="`toolkit explain` on the bundle names the cause; a layer left in float costs least here",
        )  # fmt: skip


def about_symmetry(layer: str, channel: int, defect: float, others: int) -> Iterator[Finding]:
    """A layer that does not treat every place alike; `others` are the further channels that do not either."""
    if defect > LIMITS["symmetry"].value:
        more = f", and {others} more channels" if others else ""
        yield Finding(
            kind="symmetry", layer=layer, value=defect,
            text=f"treats places differently: channel {channel} is off by {defect:.0%} of its deviation where the "
            f"image is moved{more}",
            remedy="look for a bias or a mask with an extent in space: pruning leaves one where it takes out a filter "
            "in front of padding; a network that knows coordinates on purpose is meant to have it",
        )  # fmt: skip


def about_attention(layer: str, head: HeadReport) -> Iterator[Finding]:
    """A head that spreads its weight evenly, whatever it sees, or gives all of it to one key."""
    name = f"{layer} head {head.head}"
    if head.from_even < LIMITS["even attention"].value:
        yield Finding(
            kind="even attention", layer=name, value=head.from_even,
            text=f"collapsed to the plain mean: its weights differ from an even spread by {head.from_even:.2%}",
            remedy="replace it by a mean, or prune it; if it is to learn, its scores are too small: scale its queries",
        )  # fmt: skip
    if head.one_key_share >= LIMITS["one-key attention"].value:
        whom = "all of them the same one" if head.same_key_share == 1 else f"rank {head.rank:.1f} of the weights"
        yield Finding(
            kind="one-key attention", layer=name, value=head.one_key_share,
            text=f"collapsed to single keys: {head.one_key_share:.1%} of its queries give 99 % of their weight to one "
            f"key, {whom}",
            remedy="its scores are too large: normalise queries and keys, or lower the scale, and train on",
        )  # fmt: skip
