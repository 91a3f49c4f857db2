"""Which tensors of a captured graph a runtime holds as integers: where fake quantizers go.

The rules are those by which onnxruntime makes integer kernels of QDQ graphs: what a kernel reads is quantized, and so
is what it writes, behind the activation that it computes with it. Additions and pools between such kernels work on
integers too, and what only moves values keeps the integers that it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx


__all__ = ["Places", "Weight", "find_places", "operator"]

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"})
_PRODUCTS = frozenset({"linear", "matmul"})
_JOINS = frozenset({"add", "cat"})
_POOLS = frozenset({"mean", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"})
_TABLES = frozenset({"embedding"})
_MOVES = frozenset(
    "view reshape flatten unflatten transpose permute squeeze unsqueeze max_pool1d max_pool2d slice select clone "
    "contiguous dropout alias".split()
)
_ACTIVATIONS = frozenset({"relu", "relu6", "hardtanh", "clamp", "clamp_min"})


@dataclass(frozen=True)
class Weight:
    """A kernel's weight: the node that holds it, the axis of its output channels, the kernels that read it.

    A table that rows are looked up in has a scale for each row.
    """

    node: fx.Node
    axis: int
    grouped: bool
    readers: tuple[fx.Node, ...]

    @property
    def layer(self) -> str:
        """Name of the module that holds it."""
        return _layer(self.node)


@dataclass(frozen=True)
class Places:
    """What is to be quantized.

    Args:
        activations: Nodes whose value is quantized; each with the node whose quantizer it shares, itself if none.
        weights: Of the kernels, each once.
    """

    activations: Mapping[fx.Node, fx.Node] = field(default_factory=dict)
    weights: tuple[Weight, ...] = ()


def operator(node: fx.Node) -> str:
    """`conv2d` of `aten.conv2d.padding`; empty for what is no operator."""
    name = str(node.target) if node.op == "call_function" else ""
    return name.split(".")[1].rstrip("_") if name.startswith("aten.") else ""


def find_places(
    graph: fx.Graph, *, least_channels: int = 1, integers_only: bool = False, exclude: Collection[str] = ()
) -> Places:
    """Where fake quantizers go in `graph`.

    Args:
        least_channels: Dense convolutions with fewer input channels stay in float, unless a pool follows them.
        integers_only: The device has no float arithmetic: products of activations and every output are quantized too.
        exclude: Modules whose layers stay in float.
    """
    kernels = [
        n
        for n in graph.nodes
        if _is_kernel(n, integers_only) and not _is_narrow(n, least_channels) and _layer(_argument(n, 1)) not in exclude
    ]
    marked: dict[fx.Node, fx.Node] = {}
    for kernel in kernels:
        for value in _read(kernel):
            marked.setdefault(value, value)
        if operator(kernel) in _CONVOLUTIONS or integers_only:
            end = _behind_activation(kernel)
            marked.setdefault(end, end)
    _follow(graph, marked)
    tables = [n for n in graph.nodes if _is_table(n) and _layer(_argument(n, 0)) not in exclude]
    return Places(marked, tuple(_weights([*kernels, *tables])))


def _follow(graph: fx.Graph, marked: dict[fx.Node, fx.Node]) -> None:
    """Mark what additions, pools and moves make of values that are integers."""
    for node in graph.nodes:
        name = operator(node)
        values = [n for n in _operands(node) if _is_float(n)]
        if not values or any(value not in marked for value in values):
            continue
        if name in _MOVES:
            marked[node] = marked[values[0]]
        elif name in _POOLS or (name in _JOINS and len(values) > 1):
            end = _behind_activation(node)
            marked[end] = end


def _layer(weight: fx.Node) -> str:
    return str(weight.target).rpartition(".")[0] if _is_parameter(weight) else ""


def _is_kernel(node: fx.Node, integers_only: bool) -> bool:
    name = operator(node)
    if name in _CONVOLUTIONS or name == "linear":
        return _is_parameter(_argument(node, 1))
    return name in _PRODUCTS and (_is_parameter(_argument(node, 1)) or integers_only)


def _is_table(node: fx.Node) -> bool:
    return operator(node) in _TABLES and _is_parameter(_argument(node, 0))


def _weight(kernel: fx.Node) -> Any:
    return _argument(kernel, 0 if operator(kernel) in _TABLES else 1)


def _is_narrow(node: fx.Node, least_channels: int) -> bool:
    """Convolutions alone: integer kernels multiply in groups of channels."""
    if operator(node) not in _CONVOLUTIONS or operator(node).startswith("conv_transpose"):
        return False
    weight = _argument(node, 1).meta["val"]
    value = _argument(node, 0).meta["val"]
    dense = value.shape[1] == weight.shape[1]
    pooled = any("pool" in operator(user) for user in _behind_activation(node).users)
    return bool(dense and weight.shape[1] < least_channels and not pooled)


def _read(kernel: fx.Node) -> Iterator[fx.Node]:
    """The activations that a kernel reads: its first operand, and the second where that is no weight."""
    for value in (_argument(kernel, 0), _argument(kernel, 1)):
        if not _is_parameter(value):
            yield value


def _operands(node: fx.Node) -> list[fx.Node]:
    if operator(node) == "cat":
        return list(_argument(node, 0))
    return list(node.all_input_nodes) if operator(node) in _JOINS else list(node.all_input_nodes[:1])


def _behind_activation(node: fx.Node) -> fx.Node:
    """The activation that the runtime computes with `node`, where nothing else reads its value; else `node`."""
    users = list(node.users)
    if len(users) == 1 and operator(users[0]) in _ACTIVATIONS and _cuts_at_zero(users[0]):
        return users[0]
    return node


def _cuts_at_zero(node: fx.Node) -> bool:
    """Integers saturate: a range that starts at zero cuts by itself, and no other does."""
    if operator(node) in ("relu", "relu6"):
        return True
    low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    return isinstance(low, (int, float)) and low == 0


def _argument(node: fx.Node, position: int) -> Any:
    """fx says that an argument is a node or almost anything; which it is, the operator says."""
    return node.args[position]


def _is_parameter(value: fx.Node) -> bool:
    return value.op == "get_attr"


def _is_float(value: fx.Node) -> bool:
    found = value.meta.get("val")
    return found is not None and hasattr(found, "dtype") and bool(found.dtype.is_floating_point)


def _weights(kernels: list[fx.Node]) -> Iterator[Weight]:
    readers: dict[tuple[str, int], list[fx.Node]] = {}
    nodes: dict[tuple[str, int], fx.Node] = {}
    for kernel in kernels:
        weight = _weight(kernel)
        if _is_parameter(weight):
            key = (str(weight.target), _channel_axis(kernel))
            readers.setdefault(key, []).append(kernel)
            nodes.setdefault(key, weight)
    for key, found in readers.items():
        grouped = any(operator(k).startswith("conv_transpose") and k.args[6:7] not in ((), (1,)) for k in found)
        yield Weight(nodes[key], key[1], grouped, tuple(found))


def _channel_axis(kernel: fx.Node) -> int:
    name = operator(kernel)
    if name.startswith("conv_transpose"):
        return 1
    return _argument(kernel, 1).meta["val"].ndim - 1 if name == "matmul" else 0
