"""Which axes of a graph must keep the same number of channels, and which nothing binds.

Two axes are in one group where an operator needs them to be equal: the output of a convolution and the input of the
next, both terms of an addition, a weight and what it multiplies. A group that reaches an input or an output of the
graph, or an operator that `channel_rules` does not know, is held: its size cannot change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes.onnx_level.matching import rank, size

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Axis", "ChannelGroup", "Links"]


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor; a constant has its own for every node that reads it, at `use` (node, position)."""

    value: ir.Value
    axis: int
    use: tuple[ir.Node, int] | None = None

    @property
    def size(self) -> int | str | None:
        return size(self.value, self.axis)


@dataclass
class ChannelGroup:
    """Axes that shrink together. `made` counts the layers whose outputs they are; `held` says why they cannot shrink.

    `added` is set where two layers are summed, as on the trunk of a residual network. An axis may be a whole multiple
    of `channels`: an image that was flattened, channels first.
    """

    axes: list[Axis] = field(default_factory=list)
    made: int = 0
    added: bool = False
    held: str = ""

    @property
    def channels(self) -> int:
        return min(n for a in self.axes if isinstance(n := a.size, int))


class Links:
    """A union of axes that grows; what is known about a group is kept at its root."""

    def __init__(self) -> None:
        self.parent: dict[Axis, Axis] = {}
        self.held: dict[Axis, str] = {}
        self.made: list[Axis] = []
        self.added: list[Axis] = []

    def root(self, axis: Axis) -> Axis:
        self.parent.setdefault(axis, axis)
        while self.parent[axis] is not axis:
            self.parent[axis] = self.parent[self.parent[axis]]
            axis = self.parent[axis]
        return axis

    def join(self, one: Axis, other: Axis) -> None:
        first, second = self.root(one), self.root(other)
        if first is not second:
            self.parent[second] = first
            if reason := self.held.pop(second, ""):
                self.held.setdefault(first, reason)

    def hold(self, axis: Axis, reason: str) -> None:
        self.held.setdefault(self.root(axis), reason)

    def hold_all(self, value: ir.Value, reason: str, use: tuple[ir.Node, int] | None = None) -> None:
        for axis in range(rank(value)):
            self.hold(Axis(value, axis, use if value.const_value is not None else None), reason)

    def groups(self) -> list[ChannelGroup]:
        found: dict[Axis, ChannelGroup] = {}
        for axis in self.made:
            group = found.setdefault(self.root(axis), ChannelGroup())
            group.made += 1
        for axis in list(self.parent):
            if (root := self.root(axis)) in found:
                found[root].axes.append(axis)
        for root, group in found.items():
            group.held = self.held.get(root, "") or _mixed(group)
        for axis in self.added:
            if (root := self.root(axis)) in found:
                found[root].added = True
        return list(found.values())


def _mixed(group: ChannelGroup) -> str:
    """Why the sizes of a group do not shrink together, or nothing."""
    sizes = [a.size for a in group.axes]
    if not all(isinstance(n, int) and n > 0 for n in sizes):
        return "its number of channels is not a constant"
    known = [n for n in sizes if isinstance(n, int)]
    return "" if all(n % min(known) == 0 for n in known) else "flattened images of different sizes are joined"
