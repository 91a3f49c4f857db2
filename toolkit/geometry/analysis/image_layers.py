"""The layers of an ONNX graph that work on images, each cut out so that it can be run on a moved input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, lcm
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from passes.dataset import Array
from passes.onnxruntime import Session
from toolkit.geometry.analysis.symmetry import equivariance_defect, rolled
from toolkit.geometry.analysis.tapping import Graph

if TYPE_CHECKING:
    import onnx

__all__ = ["ImageLayer", "defects", "image_layers"]

_CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv")
_WINDOWS = (*_CONVOLUTIONS, "MaxPool", "AveragePool", "LpPool")
_LOCAL = frozenset(
    (*_WINDOWS, "Abs", "Add", "BatchNormalization", "Cast", "Celu", "Clip", "Concat", "DequantizeLinear", "Div",
     "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min",
     "Mish", "Mul", "Neg", "PRelu", "Pad", "Pow", "QuantizeLinear", "Relu", "Resize", "Selu", "Sigmoid", "Slice",
     "Softplus", "Split", "Sqrt", "Sub", "Tanh", "Upsample", "Where")
)  # fmt: skip
"""Operators that can commute with a move; a layer that holds any other is not asked."""
_RESIZE_REACH = 4  # places of its input that a cubic interpolation reads


@dataclass(frozen=True)
class ImageLayer:
    """What lies between the inputs of convolutions.

    Args:
        name: Of its last convolution, or of its last operator.
        tensor: Its answer, [N, C, H, W].
        sources: Images that it reads, with the move of each, along both axes, for one `shift` of the answer: whole
            steps of every image on the way, since no network commutes with less than its own stride.
        held: What it reads that has no extent in space: gates and scales, which stay as they are.
        shift: In places of the answer.
        margin: Places of the answer that borders and seam reach, along H and W.
    """

    name: str
    tensor: str
    sources: Mapping[str, tuple[int, int]]
    held: tuple[str, ...]
    shift: tuple[int, int]
    margin: tuple[int, int]


@dataclass
class _Path:
    """From the answer back to a tensor: places of the tensor for one of the answer, places of the answer reached."""

    scale: tuple[Fraction, Fraction]
    reach: tuple[Fraction, Fraction]


def image_layers(graph: Graph) -> Iterator[ImageLayer]:
    """The layers whose answers are images large enough to tell."""
    cuts = _cuts(graph)
    for tensor in cuts:
        if tensor in graph.makers and (layer := _cut_out(graph, tensor, cuts)) is not None:
            yield layer


def _is_image(graph: Graph, tensor: str) -> bool:
    shape = graph.shape(tensor)
    return len(shape) == 4 and min(shape[1:]) > 0 and min(shape[2:]) > 1 and graph.is_float(tensor)


def _cuts(graph: Graph) -> dict[str, None]:
    """Images that convolutions read, and those that leave the images: for a mean, a product, or the answer."""
    found = {value.name: None for value in graph.model.graph.input if _is_image(graph, value.name)}
    for node in graph.model.graph.node:
        for name in node.input:
            leaves = node.op_type in _CONVOLUTIONS or node.op_type not in _LOCAL
            if leaves and _is_image(graph, name) and not graph.is_constant(name):
                found[name] = None
    return found | {name: None for name in graph.outputs if _is_image(graph, name)}


def _cut_out(graph: Graph, tensor: str, cuts: Mapping[str, None]) -> ImageLayer | None:
    """The layer that makes `tensor`; None where it is none of images alone, or paths disagree on how it scales."""
    paths = {tensor: _Path((Fraction(1), Fraction(1)), (Fraction(0), Fraction(0)))}
    sources: dict[str, _Path] = {}
    held: dict[str, None] = {}
    name = ""
    for node in _cone(graph, tensor, cuts):
        if node.op_type not in _LOCAL:
            return None
        name = (node.name or node.output[0]) if not name and node.op_type in _CONVOLUTIONS else name
        path = next(paths[out] for out in node.output if out in paths)
        for read in node.input:
            if not read or graph.is_constant(read):
                continue
            if not _is_image(graph, read) and read not in graph.makers:
                return None
            if _is_gate(graph, read):
                held[read] = None
                continue
            before = _before(graph, node, read, path)
            known = paths.get(read)
            if before is None or (known is not None and known.scale != before.scale):
                return None
            if known is not None:
                before.reach = tuple(map(max, before.reach, known.reach))  # type: ignore[assignment]
            paths[read] = before
            if read in cuts:
                sources[read] = before
    if not sources:
        return None
    shift = tuple(lcm(*(path.scale[axis].denominator for path in paths.values())) for axis in (0, 1))
    margin = tuple(ceil(max(path.reach[axis] for path in sources.values())) + shift[axis] for axis in (0, 1))
    size = graph.shape(tensor)[2:]
    if any(size[axis] - 2 * margin[axis] < 1 for axis in (0, 1)):
        return None
    moves = {read: (int(p.scale[0] * shift[0]), int(p.scale[1] * shift[1])) for read, p in sources.items()}
    last = graph.makers[tensor]
    return ImageLayer(name or last.name or tensor, tensor, moves, tuple(held), (shift[0], shift[1]),
                      (margin[0], margin[1]))  # fmt: skip


def _cone(graph: Graph, tensor: str, cuts: Mapping[str, None]) -> Iterator[onnx.NodeProto]:
    """The operators behind `tensor` up to the cuts before it, each after all that read it."""
    wanted = {tensor}
    for node in reversed(graph.model.graph.node):
        if wanted.isdisjoint(node.output):
            continue
        yield node
        for read in node.input:
            if read and read not in cuts and not graph.is_constant(read) and not _is_gate(graph, read):
                wanted.add(read)


def _is_gate(graph: Graph, tensor: str) -> bool:
    """Whether it is the same at every place."""
    shape = graph.shape(tensor)
    return tensor in graph.makers and tensor in graph.values and (len(shape) < 2 or tuple(shape[2:]) == (1, 1))


def _before(graph: Graph, node: onnx.NodeProto, read: str, path: _Path) -> _Path | None:
    """The path one operator further back."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return _Path(path.scale, path.reach)
    own, made = graph.shape(read), graph.shape(node.output[0])
    if len(own) != 4 or len(made) != 4 or 0 in own[2:] or 0 in made[2:]:
        return None
    strides, reach = _window(graph, node)
    scale = []
    reached = []
    for axis in (0, 1):
        size, answer = own[2 + axis], made[2 + axis]
        if node.op_type in ("Resize", "Upsample", "ConvTranspose"):
            step = Fraction(size, answer)
        elif node.op_type == "Slice" and size >= 2 * answer:
            step = Fraction(round(size / answer))
        else:
            step = Fraction(strides[axis])
        further = abs(size - answer) if node.op_type in ("Pad", "Slice") else reach[axis]
        scale.append(path.scale[axis] * step)
        reached.append(path.reach[axis] + Fraction(further) / scale[axis])
    return _Path((scale[0], scale[1]), (reached[0], reached[1]))


def _window(graph: Graph, node: onnx.NodeProto) -> tuple[tuple[int, int], tuple[int, int]]:
    """Strides of an operator, and the places of its input beside the middle one that an answer reads."""
    if node.op_type in ("Resize", "Upsample"):
        return (1, 1), (_RESIZE_REACH, _RESIZE_REACH)
    if node.op_type not in _WINDOWS:
        return (1, 1), (0, 0)
    said = {a.name: list(a.ints) for a in node.attribute if a.ints}
    kernel = said.get("kernel_shape") or list(graph.shape(node.input[1])[2:]) or _weight_size(graph, node)
    strides, dilations = said.get("strides", [1, 1]), said.get("dilations", [1, 1])
    return (strides[0], strides[1]), ((kernel[0] - 1) * dilations[0], (kernel[1] - 1) * dilations[1])


def _weight_size(graph: Graph, node: onnx.NodeProto) -> list[int]:
    weight = graph.constants.get(node.input[1])
    return list(weight.dims[2:]) if weight is not None else [1, 1]


def defects(graph: Graph, layer: ImageLayer, tensors: Mapping[str, Array]) -> Tensor:
    """[C]: by channel, the worse of the layer's defects where its images move down and where they move right.

    Args:
        tensors: What the layer reads, as `sources` and `held` name it.
    """
    session = Session(_alone(graph, layer).SerializeToString())
    still = torch.from_numpy(session({name: tensors[name] for name in (*layer.sources, *layer.held)})[layer.tensor])
    found = []
    for way in ((1, 0), (0, 1)):
        moved = {
            name: np.ascontiguousarray(
                rolled(torch.from_numpy(tensors[name]), (way[0] * by[0], way[1] * by[1])).numpy()
            )
            for name, by in layer.sources.items()
        }
        answer = session({**moved, **{name: tensors[name] for name in layer.held}})[layer.tensor]
        shift = (way[0] * layer.shift[0], way[1] * layer.shift[1])
        found.append(equivariance_defect(still, torch.from_numpy(answer), shift, layer.margin))
    return torch.stack(found).amax(0)


def _alone(graph: Graph, layer: ImageLayer) -> onnx.ModelProto:
    """The layer as a graph of its own."""
    from onnx import helper

    sources = {*layer.sources, *layer.held}
    nodes = _with_constants(graph, layer.tensor, sources)
    used = {name for node in nodes for name in node.input}
    own = helper.make_graph(
        nodes,
        "layer",
        [graph.values[name] for name in (*layer.sources, *layer.held)],
        [graph.values[layer.tensor]],
        [tensor for name, tensor in graph.constants.items() if name in used],
    )
    return helper.make_model(own, opset_imports=graph.model.opset_import, ir_version=graph.model.ir_version)


def _with_constants(graph: Graph, tensor: str, sources: set[str]) -> list[onnx.NodeProto]:
    wanted, found = {tensor}, []
    for node in reversed(graph.model.graph.node):
        if not wanted.isdisjoint(node.output):
            found.append(node)
            wanted.update(name for name in node.input if name and name not in sources)
    return found[::-1]
