"""How many units of each set of tied channels go, so that a share of the work goes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd

from passes.torch_level.layer_work import LayerWork, seconds
from passes.torch_level.tied_channels import Tied
from targets.stack import Stack

__all__ = ["Plan", "everywhere", "where_least"]

Kept = Mapping[str, int]
"""Units that stay, by the root of the set."""


@dataclass(frozen=True)
class Plan:
    """What may be narrowed: the sets that are free, the layers with weights, and the channels that go at once.

    A set keeps a multiple of `round_to` channels, or all of them; and never fewer than `round_to`. Work is counted in
    the seconds that the layers are predicted to take on `stack`, in multiply-accumulates where that is None.
    """

    groups: tuple[Tied, ...]
    layers: Mapping[str, LayerWork]
    round_to: int
    stack: Stack | None = None

    def steps(self, tied: Tied) -> list[int]:
        """Units that a set may keep, most first."""
        step = self.round_to // gcd(self.round_to, tied.width)
        return [tied.units, *range((tied.units - 1) // step * step, 0, -step)]

    @cached_property
    def all(self) -> Kept:
        return {tied.root: tied.units for tied in self.groups}

    @cached_property
    def least(self) -> Kept:
        return {tied.root: self.steps(tied)[-1] for tied in self.groups}

    def narrowed(self, kept: Kept) -> dict[str, LayerWork]:
        """Every layer at the widths that are left."""
        lost_rows: dict[str, int] = {}
        lost_columns: dict[str, int] = {}
        for tied in self.groups:
            gone = tied.units - kept[tied.root]
            for lost, members in ((lost_rows, tied.rows), (lost_columns, tied.columns)):
                for name, each in members:
                    lost[name] = lost.get(name, 0) + gone * each
        return {
            name: layer.resized(layer.inputs - lost_columns.get(name, 0), layer.outputs - lost_rows.get(name, 0))
            for name, layer in self.layers.items()
        }

    def macs(self, kept: Kept) -> int:
        return sum(layer.macs for layer in self.narrowed(kept).values())

    def work(self, kept: Kept) -> float:
        """Of all layers at these widths, in seconds or multiply-accumulates."""
        if self.stack is None:
            return self.macs(kept)
        return seconds(self.narrowed(kept).values(), self.stack)


def everywhere(plan: Plan, budget: float) -> Kept:
    """The same share of every set, in steps of 1 %: the smallest that leaves at most `budget` work."""
    for percent in range(1, 100):
        kept = {
            tied.root: min((k for k in plan.steps(tied) if k * 100 >= tied.units * (100 - percent)), default=tied.units)
            for tied in plan.groups
        }
        if plan.work(kept) <= budget:
            return kept
    return plan.least


def where_least(plan: Plan, budget: float, loss: Callable[[Tied, int, int, Kept], float]) -> Kept:
    """Step after step where it costs least, until at most `budget` work is left.

    Args:
        loss: From a set, the units it keeps, those it would keep next, and what all keep, to the price of that step.
            Asked again after a step only where a layer of the set has changed.
    """
    steps = {tied.root: plan.steps(tied) for tied in plan.groups}
    near = _neighbours(plan.groups)
    kept = dict(plan.all)
    prices: dict[str, float] = {}
    while plan.work(kept) > budget:
        open_ = [tied for tied in plan.groups if kept[tied.root] > steps[tied.root][-1]]
        if not open_:
            break
        after = {tied.root: steps[tied.root][steps[tied.root].index(kept[tied.root]) + 1] for tied in open_}
        for tied in open_:
            if tied.root not in prices:
                prices[tied.root] = loss(tied, kept[tied.root], after[tied.root], kept)
        chosen = min((tied.root for tied in open_), key=prices.__getitem__)
        kept[chosen] = after[chosen]
        for root in near[chosen]:
            prices.pop(root, None)
    return kept


def _neighbours(groups: Sequence[Tied]) -> dict[str, list[str]]:
    """For each set those that have a layer in common with it, itself included."""
    layers = {tied.root: {name for name, _ in (*tied.rows, *tied.columns)} for tied in groups}
    return {root: [other for other, theirs in layers.items() if theirs & mine] for root, mine in layers.items()}
