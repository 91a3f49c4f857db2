"""NAS-Bench-201: networks made of one searched cell (Dong and Yang 2020, arXiv:2001.00326).

A cell has four nodes; node 0 is its input, and every later node sums its incoming edges. The string of a cell names
the edges into nodes 1, 2 and 3 as `operation~source`: `|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|...|`.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from toolkit.errors import ToolkitError

from .blocks import Residual, classifier

__all__ = ["CLASSES", "STAGES", "STEM_CHANNELS", "Edge", "build_cell", "cell_edges"]

STEM_CHANNELS, CLASSES = 16, 10
STAGES = ((16, 5), (32, 5), (64, 5))  # channels, cells; a residual block of stride 2 before the second and the third
_KERNELS: Mapping[str, int] = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
_POOL, _SKIP = "avg_pool_3x3", "skip_connect"
_EDGE = re.compile(r"(\w+)~(\d)")


class Edge(NamedTuple):
    """One operation of a cell: a ReLU-convolution-norm of `kernel` pixels, a pool, or the source itself."""

    source: int
    kernel: int = 0
    pool: bool = False


def cell_edges(arch: str) -> tuple[tuple[Edge, ...], ...]:
    """The edges into nodes 1, 2 and 3 of the cell that `arch` names.

    Raises:
        ToolkitError: `arch` is not of the form above, names another operation (`none` among them), or has a node
            that reads itself or a later one.
    """
    nodes = tuple(tuple(_edge(arch, text) for text in node.strip("|").split("|")) for node in arch.split("+"))
    if len(nodes) != 3 or any(edge.source > i for i, node in enumerate(nodes) for edge in node):
        raise _unreadable(arch, "it needs three nodes, each reading earlier ones")
    return nodes


def _edge(arch: str, text: str) -> Edge:
    match = _EDGE.fullmatch(text)
    if match is None or match[1] not in (*_KERNELS, _POOL, _SKIP):
        raise _unreadable(arch, f"{text!r} is no edge")
    return Edge(int(match[2]), _KERNELS.get(match[1], 0), match[1] == _POOL)


def _unreadable(arch: str, why: str) -> ToolkitError:
    return ToolkitError(
        f"{arch!r} is not a NAS-Bench-201 cell: {why}",
        hint=f"write |operation~source|+|...|...|+|...|...|...| with {', '.join((*_KERNELS, _POOL, _SKIP))}",
    )


def _relu_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Cell(nn.Module):
    """The nodes in their order; the output is the last one."""

    def __init__(self, nodes: tuple[tuple[Edge, ...], ...], channels: int) -> None:
        super().__init__()
        self.sources = [[edge.source for edge in node] for node in nodes]
        self.edges = nn.ModuleList(nn.ModuleList(_operation(edge, channels) for edge in node) for node in nodes)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for sources, edges in zip(self.sources, self.edges, strict=True):
            assert isinstance(edges, nn.ModuleList)
            first, *rest = (edge(made[source]) for source, edge in zip(sources, edges, strict=True))
            for other in rest:
                first = first + other
            made.append(first)
        return made[-1]


def _operation(edge: Edge, channels: int) -> nn.Module:
    if edge.kernel:
        return _relu_conv(channels, channels, edge.kernel)
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False) if edge.pool else nn.Identity()


def _reduction(inputs: int, outputs: int) -> nn.Module:
    """Halve the map: two 3x3 convolutions beside a 2x2 pool and a 1x1 convolution."""
    body = nn.Sequential(_relu_conv(inputs, outputs, 3, 2), _relu_conv(outputs, outputs, 3))
    return Residual(body, nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False)))


def build_cell(arch: str) -> nn.Module:
    """The network for CIFAR-10 whose cell is `arch`, in eval mode; takes images of (batch, 3, 32, 32).

    Raises:
        ToolkitError: `arch` is not a cell (see `cell_edges`).
    """
    nodes, width = cell_edges(arch), STEM_CHANNELS
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
    for channels, cells in STAGES:
        if channels != width:
            layers.append(_reduction(width, channels))
        layers += [_Cell(nodes, channels) for _ in range(cells)]
        width = channels
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), classifier(width, CLASSES)).eval()
