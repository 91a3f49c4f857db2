"""Why a layer suffers: what its weights and its activation look like beside the integers that stand for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from passes.dataset import Array
from passes.onnx_level.effects import Effect
from passes.onnx_level.sites import Weight

__all__ = ["Cause", "causes"]

_OUTLIER = 8.0  # a channel's largest weight over that of the middle channel, where all share one scale
_CLIPPED = 1e-3  # of the values on the data
_VANISHED = 0.3  # of the values on the data
_WIDE = 3.0  # what can be stored over what was seen
_UNFAITHFUL = 0.1  # by which a channel of weights is larger or smaller than it was
_FEW = 0.1  # of the channels, those that may be odd
_FAINT = 1e-2  # of the middle channel's power: below it, one scale for all channels leaves nothing
_SHOWN = 4  # channels that are named


@dataclass(frozen=True)
class Cause:
    """What is wrong with a unit, as measured, and what would mend it.

    `kind` is one of outlier, clipped, vanished, wide, weights.
    """

    kind: str
    text: str
    remedy: str


def causes(effect: Effect) -> tuple[Cause, ...]:
    """Everything that stands out, the weights first; empty where 8 bits are simply few for this layer."""
    weights = [cause for weight in effect.unit.weights for cause in _of_weight(weight)]
    return (*weights, *_of_activation(effect))


def _of_weight(weight: Weight) -> Iterator[Cause]:
    own, other = weight.float_values.astype(np.float64), weight.values.astype(np.float64)
    if own.ndim < 2:
        return  # biases are moved on purpose, to take up a layer's mean error
    if (loud := _outliers(weight, own)) is not None:
        yield loud
        return  # under one scale the quiet channels keep little of what they were
    ratio = _ratios(own, other)
    odd = np.abs(ratio - 1) > _UNFAITHFUL
    if odd.mean() > _FEW:
        yield Cause(
            "weights",
            f"{weight.name} does not stand for the float weights: {odd.mean():.0%} of its channels are larger or "
            f"smaller than they were, by a factor of {np.median(ratio[odd]):.3g} in the middle",
            "a scale belongs to another tensor, or a normalisation was folded twice: quantize the float model again",
        )


def _outliers(weight: Weight, own: Array) -> Cause | None:
    """Channels for whose sake the others have few levels, where all share one scale."""
    if weight.scale is None or weight.scale.size != 1:
        return None
    reach = _by_channel(own)
    middle = float(np.median(reach))
    channels = np.flatnonzero(reach > _OUTLIER * middle)
    if middle <= 0 or not len(channels):
        return None
    named = ", ".join(str(int(c)) for c in channels[np.argsort(-reach[channels])][:_SHOWN])
    return Cause(
        "outlier",
        f"{weight.name} has one scale for all channels, and channel {named} reaches {reach.max() / middle:.0f} "
        "times as far as the middle one: the others are left with few levels",
        "one scale for each output channel (QuantizeInt8 per_channel), or EqualiseChannels before it",
    )


def _ratios(own: Array, other: Array) -> Array:
    """By how much each channel was scaled, in the least-squares sense, on the axis where that explains more.

    Rounding, whether to the nearest or for the layer's outputs, leaves it near one. Channels of nothing are left out,
    and so are those that the rounding swallows.
    """
    found = []
    for axis in (0, 1):
        others = tuple(i for i in range(own.ndim) if i != axis)
        power, shared = np.square(own).sum(others), (own * other).sum(others)
        heard = power > _FAINT * np.median(power)
        ratio = shared[heard] / power[heard]
        shape = [1] * own.ndim
        shape[axis] = -1
        spread = np.ones_like(power)
        spread[heard] = ratio
        found.append((float(np.square(other - own * spread.reshape(shape)).sum()), ratio))
    best: Array = min(found, key=lambda pair: pair[0])[1]
    return best


def _by_channel(values: Array) -> Array:
    """Largest magnitude in each channel, on the axis where channels differ most."""
    reaches = [np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis)) for axis in (0, 1)]
    return max(reaches, key=lambda reach: float(reach.max() / (np.median(reach) or 1)))


def _of_activation(effect: Effect) -> Iterator[Cause]:
    rounding, seen = effect.unit.rounding, effect.seen
    if rounding is None:
        return
    low, high = rounding.bounds
    held, used = f"[{low:.4g}, {high:.4g}]", f"[{seen.low:.4g}, {seen.high:.4g}]"
    if seen.clipped_share > _CLIPPED:
        yield Cause(
            "clipped",
            f"its activation is stored in {held} and was seen in {used}: {seen.clipped_share:.1%} of the values are "
            "cut off",
            "calibrate on samples like those that are used: --data; more of them, or ranges minmax",
        )
    elif high - low > _WIDE * max(seen.high - min(seen.low, 0.0), 1e-30):
        yield Cause(
            "wide",
            f"its activation is stored in {held} and was seen in {used}: "
            f"{1 - (seen.high - seen.low) / (high - low):.0%} of the levels are never used",
            "calibrate on samples like those that are used: --data; or ranges percentile",
        )
    if seen.vanished_share > _VANISHED:
        yield Cause(
            "vanished",
            f"{seen.vanished_share:.0%} of its values are smaller than half a step ({rounding.step / 2:.3g}) and "
            "become zero",
            f"leave {effect.unit.op_type} in float",
        )
