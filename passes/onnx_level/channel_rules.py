"""What each operator binds: the axes of its tensors that must keep the same number of channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from passes.onnx_level.channel_groups import Axis, ChannelGroup, Links
from passes.onnx_level.matching import rank, size

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["channel_groups"]

_POINTWISE = frozenset(
    "Abs Add And Cast Ceil Celu Clip Cos Div Dropout Elu Equal Erf Exp Floor Gelu Greater HardSigmoid HardSwish "
    "Identity LayerNormalization LeakyRelu Less Log LogSoftmax LpNormalization Max Mean Min Mish Mod Mul Neg Not Or "
    "PRelu Pow Reciprocal Relu RMSNormalization Round Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Sub Sum "
    "Swish Tan Tanh ThresholdedRelu Where".split()
)
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool"})
_REDUCTIONS = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare".split()
)
_NORMS = frozenset({"BatchNormalization", "InstanceNormalization"})


def channel_groups(graph: ir.Graph) -> list[ChannelGroup]:
    """Groups of at least one layer's output channels, in the order of the graph; shapes must be inferred."""
    links = Links()
    for value in (*graph.inputs, *graph.outputs):
        links.hold_all(value, f"it reaches {value.name}, which the caller sees")
    for node in graph:
        _link(node, links)
    return links.groups()


def _link(node: ir.Node, links: Links) -> None:
    """Join the axes that `node` needs to be equal, and hold those of which nothing is known."""
    op = "" if node.domain else node.op_type
    if not _known_ranks(node):
        _hold_node(node, links, "a tensor's shape is not known")
    elif op in _POINTWISE:
        _pointwise(node, links)
    elif op in ("Conv", "ConvTranspose"):
        _convolution(node, links)
    elif op in _POOLS:
        _keep(node, links, 2)
    elif op in _NORMS:
        _norm(node, links)
    elif op in _REDUCTIONS:
        _reduction(node, links)
    elif op == "Gemm":
        _gemm(node, links)
    elif op == "MatMul":
        _matmul(node, links)
    elif op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        _reshape(node, links)
    elif op == "Transpose":
        _transpose(node, links)
    elif op == "Concat":
        _concat(node, links)
    elif op == "Gather":
        _gather(node, links)
    elif op in ("Pad", "Resize", "Slice"):
        _same_size(node, links)
    else:
        _hold_node(node, links, f"{node.op_type} binds it")


def _known_ranks(node: ir.Node) -> bool:
    values = [v for v in (*node.inputs, *node.outputs[:1]) if v is not None]
    return all(rank(v) >= 0 for v in values)


def _axis(node: ir.Node, position: int, axis: int) -> Axis:
    value = node.inputs[position]
    assert value is not None
    return Axis(value, axis % max(rank(value), 1), (node, position) if value.const_value is not None else None)


def _hold_node(node: ir.Node, links: Links, reason: str) -> None:
    where = f"{reason} at {node.name or node.op_type}"
    for position, value in enumerate(node.inputs):
        if value is not None:
            links.hold_all(value, where, (node, position))
    for value in node.outputs:
        links.hold_all(value, where)
    for attribute in node.attributes.values():
        for inner in _captured(attribute):
            links.hold_all(inner, where)


def _captured(attribute: ir.Attr) -> Iterator[ir.Value]:
    """Values that the bodies of a control-flow operator read."""
    kind = attribute.type.name
    for body in [attribute.as_graph()] if kind == "GRAPH" else attribute.as_graphs() if kind == "GRAPHS" else []:
        for node in body:
            yield from (v for v in node.inputs if v is not None)
            for inner in node.attributes.values():
                yield from _captured(inner)


def _pointwise(node: ir.Node, links: Links) -> None:
    """Axes are aligned at the end; one of size 1 is spread over the other's."""
    out = node.outputs[0]
    varying = [p for p, v in enumerate(node.inputs) if v is not None and v.const_value is None]
    for position, value in enumerate(node.inputs):
        if value is None:
            continue
        shift = rank(out) - rank(value)
        for axis in range(rank(value)):
            own = _axis(node, position, axis)
            if own.size != 1 or size(out, axis + shift) == 1:
                links.join(Axis(out, axis + shift), own)
                if node.op_type in ("Add", "Sub", "Sum") and len(varying) > 1 and own.size != 1:
                    links.added.append(own)
    for extra in node.outputs[1:]:
        if extra.uses():
            links.hold_all(extra, f"{node.op_type} has a second result")


def _convolution(node: ir.Node, links: Links) -> None:
    groups, transposed = node.attributes.get_int("group", 1), node.op_type == "ConvTranspose"
    weight, out = _axis(node, 1, 0), Axis(node.outputs[0], 1)
    if weight.value.const_value is None:
        return _hold_node(node, links, "a filter that is computed binds it")
    depthwise = groups > 1 and not transposed and weight.size == groups and size(weight.value, 1) == 1
    if groups > 1 and not depthwise:
        return _hold_node(node, links, "a convolution in groups binds it")
    into, outof = (0, 1) if transposed else (1, 0)
    links.join(out, _axis(node, 1, outof))
    links.join(_axis(node, 0, 1), _axis(node, 1, 0 if depthwise else into))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        links.join(out, _axis(node, 2, 0))
    if not depthwise:
        links.made.append(_axis(node, 1, outof))
    return None


def _keep(node: ir.Node, links: Links, axes: int) -> None:
    for axis in range(axes):
        links.join(_axis(node, 0, axis), Axis(node.outputs[0], axis))
    for extra in node.outputs[1:]:
        if extra.uses():
            links.hold_all(extra, f"{node.op_type} has a second result")


def _norm(node: ir.Node, links: Links) -> None:
    _keep(node, links, 2)
    for position in range(1, len(node.inputs)):
        links.join(Axis(node.outputs[0], 1), _axis(node, position, 0))


def _reduction(node: ir.Node, links: Links) -> None:
    """Axes that stay; what is averaged over may have any size."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None and given.const_value is None:
        return _hold_node(node, links, "a computed axis binds it")
    axes = given.const_value.numpy().tolist() if given is not None and given.const_value is not None else None
    axes = list(node.attributes.get_ints("axes", [])) if axes is None else axes
    if not axes:
        return _hold_node(node, links, "a reduction of everything binds it")
    gone = {a % rank(x) for a in axes}
    kept = [a for a in range(rank(x)) if a not in gone]
    places = kept if node.attributes.get_int("keepdims", 1) else range(len(kept))
    for axis, place in zip(kept, places, strict=True):
        links.join(_axis(node, 0, axis), Axis(out, place))
    return None


def _gemm(node: ir.Node, links: Links) -> None:
    out = Axis(node.outputs[0], 1)
    if node.attributes.get_int("transA", 0):
        return _hold_node(node, links, "a transposed product binds it")
    into, outof = (1, 0) if node.attributes.get_int("transB", 0) else (0, 1)
    links.join(_axis(node, 0, 1), _axis(node, 1, into))
    links.join(out, _axis(node, 1, outof))
    links.join(_axis(node, 0, 0), Axis(node.outputs[0], 0))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = node.inputs[2]
        if rank(bias) == 1 and size(bias, 0) == out.size:
            links.join(out, _axis(node, 2, 0))
        else:
            links.hold(out, f"the bias binds it at {node.name}")
            links.hold_all(bias, f"the bias binds it at {node.name}", (node, 2))
    if _axis(node, 1, 0).value.const_value is not None:
        links.made.append(_axis(node, 1, outof))
    return None


def _matmul(node: ir.Node, links: Links) -> None:
    left, right, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert left is not None
    assert right is not None
    if min(rank(left), rank(right)) < 2:
        return _hold_node(node, links, "a product with a vector binds it")
    links.join(_axis(node, 0, rank(left) - 1), _axis(node, 1, rank(right) - 2))
    links.join(_axis(node, 0, rank(left) - 2), Axis(out, rank(out) - 2))
    links.join(_axis(node, 1, rank(right) - 1), Axis(out, rank(out) - 1))
    for position, value in ((0, left), (1, right)):
        for axis in range(rank(value) - 2):
            own = _axis(node, position, axis)
            if own.size != 1:
                links.join(own, Axis(out, rank(out) - rank(value) + axis))
    if right.const_value is not None:
        links.made.append(_axis(node, 1, rank(right) - 1))
    return None


def _reshape(node: ir.Node, links: Links) -> None:
    """Axes that stay whole are joined; of several that are merged, the first, of which the merged one is a multiple."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    where = f"{node.op_type} binds it at {node.name}"
    blocks = _blocks([size(x, i) for i in range(rank(x))], [size(out, i) for i in range(rank(out))])
    constant = len(node.inputs) < 2 or node.inputs[1] is None or node.inputs[1].const_value is not None
    if blocks is None or not constant:
        return _hold_node(node, links, where)
    for before, after in blocks:
        if len(after) == 1 and before:
            links.join(_axis(node, 0, before[0]), Axis(out, after[0]))
            for axis in before[1:]:
                links.hold(_axis(node, 0, axis), where)
        else:
            for axis in before:
                links.hold(_axis(node, 0, axis), where)
            for axis in after:
                links.hold(Axis(out, axis), where)
    return None


Dims = Sequence[int | str | None]


def _blocks(before: Dims, after: Dims) -> list[tuple[list[int], list[int]]] | None:
    """Runs of axes that hold the same elements on both sides, axes of size 1 left out; None where that is not known."""
    left, right = ([i for i, n in enumerate(dims) if n != 1] for dims in (before, after))
    found: list[tuple[list[int], list[int]]] = []
    while left or right:
        own, other = ([left.pop(0)] if left else []), ([right.pop(0)] if right else [])
        if not own or not other:
            return None
        if isinstance(before[own[0]], str) and before[own[0]] == after[other[0]]:
            found.append((own, other))
            continue
        while (a := _product(before, own)) != (b := _product(after, other)):
            if a is None or b is None or not (left if a < b else right):
                return None
            (own if a < b else other).append((left if a < b else right).pop(0))
        if a is None:
            return None
        found.append((own, other))
    return found


def _product(dims: Dims, axes: Sequence[int]) -> int | None:
    sizes = [n for i in axes if isinstance(n := dims[i], int)]
    return prod(sizes) if len(sizes) == len(axes) and all(sizes) else None


def _transpose(node: ir.Node, links: Links) -> None:
    out = node.outputs[0]
    order = node.attributes.get_ints("perm", list(range(rank(out)))[::-1])
    for place, axis in enumerate(order):
        links.join(_axis(node, 0, axis), Axis(out, place))


def _concat(node: ir.Node, links: Links) -> None:
    """What is laid side by side keeps its size; the other axes are the same in all."""
    out = node.outputs[0]
    along = node.attributes.get_int("axis", 0) % rank(out)
    where = f"Concat binds it at {node.name}"
    for axis in range(rank(out)):
        for position in range(len(node.inputs)):
            own = _axis(node, position, axis)
            if axis == along:
                links.hold(own, where)
            else:
                links.join(Axis(out, axis), own)
    links.hold(Axis(out, along), where)


def _gather(node: ir.Node, links: Links) -> None:
    """The axis that is picked from is held; the others stay, before and after those of the indices."""
    x, indices, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None
    assert indices is not None
    along, where = node.attributes.get_int("axis", 0) % rank(x), f"Gather binds it at {node.name}"
    links.hold(_axis(node, 0, along), where)
    links.hold_all(indices, where, (node, 1))
    for axis in range(rank(x)):
        if axis != along:
            links.join(_axis(node, 0, axis), Axis(out, axis if axis < along else axis - 1 + rank(indices)))
    for axis in range(rank(indices)):
        links.hold(Axis(out, along + axis), where)


def _same_size(node: ir.Node, links: Links) -> None:
    """Pad, Resize and Slice: axes that keep their size are joined where the rest of the node names none of them."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    where = f"{node.op_type} binds it at {node.name}"
    by_size = node.op_type == "Resize" and len(node.inputs) > 3 and node.inputs[3] is not None
    for axis in range(rank(x)):
        if by_size or size(x, axis) != size(out, axis):
            links.hold(_axis(node, 0, axis), where)
            links.hold(Axis(out, axis), where)
        else:
            links.join(_axis(node, 0, axis), Axis(out, axis))
