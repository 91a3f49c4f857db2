"""Whether our way of quantizing a network is worse than the best other one: in answers, in bytes, in time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np

from passes.dataset import Array
from toolkit import units

__all__ = ["Measured", "Verdict", "outcome", "paired_mean", "ratio_of_medians", "said", "verdicts"]

_Z_95 = 1.96

Respect = Literal["right answers", "bytes", "latency"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way of quantizing a network.

    Args:
        right: (samples,) share of each sample's decisions that are right: as labelled, or as float32's without labels.
        durations_s: Of every round in which all ways were run in turn, in the order of the rounds.
    """

    way: str
    right: Array
    size_bytes: int
    durations_s: Sequence[float]


_RANKS: Mapping[Respect, Callable[[Measured], float]] = {
    "bytes": lambda one: one.size_bytes,
    "latency": lambda one: float(np.median(one.durations_s)),
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Ours against the peer that is best in one respect.

    Args:
        as_right: The peer's answers are not worse than ours; bytes and time that were paid for with answers are told
            apart from others.
        difference: Ours minus the peer's (right answers, a share), or ours through the peer's (bytes, latency).
        interval: 95 %, over samples or rounds; of bytes both ends are the ratio itself.
    """

    respect: Respect
    ours: float
    peer: str
    theirs: float
    as_right: bool
    difference: float
    interval: tuple[float, float]
    worse: bool


def verdicts(ours: Measured, others: Collection[Measured]) -> Iterator[Verdict]:
    """In each respect against the best of all; in bytes and time also against the best of those that are as right."""
    if not others:
        return
    as_right = [other for other in others if paired_mean(ours.right, other.right)[1][0] <= 0]
    best = max(others, key=lambda other: float(other.right.mean()))
    yield _verdict("right answers", ours, best, as_right)
    for respect, rank in _RANKS.items():
        first = min(others, key=rank)
        yield _verdict(respect, ours, first, as_right)
        if as_right and (second := min(as_right, key=rank)) is not first:
            yield _verdict(respect, ours, second, as_right)


def _verdict(respect: Respect, ours: Measured, peer: Measured, as_right: Collection[Measured]) -> Verdict:
    if respect == "right answers":
        mine, theirs = float(ours.right.mean()), float(peer.right.mean())
        difference, interval = paired_mean(ours.right, peer.right)
        worse = interval[1] < 0
    elif respect == "bytes":
        mine, theirs = float(ours.size_bytes), float(peer.size_bytes)
        difference, interval = mine / theirs, (mine / theirs, mine / theirs)
        worse = difference > 1
    else:
        mine, theirs = (float(np.median(one.durations_s)) for one in (ours, peer))
        difference, interval = ratio_of_medians(ours.durations_s, peer.durations_s)
        worse = interval[0] > 1
    return Verdict(
        respect=respect,
        ours=mine,
        peer=peer.way,
        theirs=theirs,
        as_right=any(one is peer for one in as_right),
        difference=difference,
        interval=interval,
        worse=worse,
    )


def paired_mean(ours: Array, theirs: Array) -> tuple[float, tuple[float, float]]:
    """Mean of ours - theirs over the same samples, and its 95 % interval.

    Samples count as independent. Crops of one picture are not, so the interval is rather too narrow than too wide: it
    calls a way worse too soon.
    """
    differences = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    mean = float(differences.mean())
    half = _Z_95 * float(differences.std(ddof=1)) / sqrt(len(differences)) if len(differences) > 1 else 1.0
    return mean, (mean - half, mean + half)


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Median over the rounds of ours through theirs, and its 95 % interval by order statistics.

    Pairs were run within the same instant, so that a machine which slows down for a while slows both.
    """
    ratios = np.sort(np.asarray(ours) / np.asarray(theirs))
    count = len(ratios)
    reach = _Z_95 * sqrt(count) / 2
    low, high = int(np.floor(count / 2 - reach)), int(np.ceil(count / 2 + reach))
    return float(np.median(ratios)), (float(ratios[max(low, 0)]), float(ratios[min(high, count - 1)]))


def outcome(verdict: Verdict) -> str:
    """In two or three words."""
    if not verdict.worse:
        return f"not worse, {verdict.respect}"
    return f"WORSE, {verdict.respect}" if verdict.as_right else f"worse in {verdict.respect} than one less right"


def said(verdict: Verdict) -> str:
    """Both figures in their unit, and the difference with its interval."""
    low, high = verdict.interval
    if verdict.respect == "right answers":
        return (f"{verdict.ours:.4f} right, {verdict.theirs:.4f} by {verdict.peer}: "
                f"{verdict.difference:+.4f} [{low:+.4f}, {high:+.4f}]")  # fmt: skip
    show = units.bytes_ if verdict.respect == "bytes" else units.seconds
    return (f"{show(verdict.ours)}, {show(verdict.theirs)} by {verdict.peer}: "
            f"{verdict.difference:.3f} times [{low:.3f}, {high:.3f}]")  # fmt: skip
