"""Read what flows inside an ONNX graph: layers, attentions and stored ranges by name, and their tensors as it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array, Sample
from passes.onnxruntime import Session
from targets.graph import MODULE_KEY
from targets.grouping import ANCHORS, EPILOGUES

if TYPE_CHECKING:
    import onnx

    from toolkit.geometry.analysis.quantization_stability import RangeUse

__all__ = ["Attention", "Graph", "Layer"]

_GROUP_BYTES = 256 * 2**20  # of tensors that are held at once
_MASKED = -9e3  # a score this low is a mask, added as -10000 or less: no score of a trained head comes near


@dataclass(frozen=True)
class Layer:
    """A product or convolution, and the tensor behind it as the next operators read it."""

    name: str
    op_type: str
    tensor: str


@dataclass(frozen=True)
class Attention:
    """A softmax that weighs values: the tensors of its scores and of its weights."""

    name: str
    scores: str
    weights: str

    def allowed(self, tensors: Mapping[str, Array]) -> Array:
        """Which keys a query may see, by its scores."""
        return np.asarray(tensors[self.scores] > _MASKED)


class Graph:
    """A graph that can be asked for any of its tensors.

    Args:
        model: With the shapes of its tensors inferred.

    Attributes:
        modules: By node, the module of the network that made it, where the graph says so.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.places = {name: place for place, node in enumerate(graph.node) for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
        self.outputs = [value.name for value in graph.output]
        self.modules = {node.name: entry.value for node in graph.node for entry in node.metadata_props
                        if entry.key == MODULE_KEY}  # fmt: skip

    def held_bytes(self, tensor: str) -> int:
        """Of a tensor in float32, a dimension that varies counted as one."""
        return 4 * prod(d or 1 for d in self.shape(tensor))

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape, with 0 for what varies; empty where nothing is known."""
        if tensor not in self.values:
            return ()
        return tuple(int(dim.dim_value) for dim in self.values[tensor].type.tensor_type.shape.dim)

    def is_float(self, tensor: str) -> bool:
        from onnx import TensorProto

        kind = self.values[tensor].type.tensor_type.elem_type if tensor in self.values else 0
        return kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

    def place(self, tensor: str) -> int:
        """Where in the order of the graph it is made: first where it is an input, last where it is not of the graph."""
        return self.places.get(tensor, -1 if tensor in self.values else len(self.makers))

    def layers(self) -> list[Layer]:
        """Those with weights, in the order in which they run, each with the activation behind it."""
        found = []
        for node in self.model.graph.node:
            weighted = any(self.is_constant(name) for name in node.input[1:])
            if node.op_type in ANCHORS and weighted and self.is_float(node.output[0]):
                found.append(Layer(node.name or node.output[0], node.op_type, self._behind(node.output[0])))
        return found

    def is_constant(self, tensor: str) -> bool:
        """Whether it is a weight, in float or behind a DequantizeLinear."""
        maker = self.makers.get(tensor)
        if maker is not None and maker.op_type == "DequantizeLinear":
            return maker.input[0] in self.constants
        return tensor in self.constants or (maker is not None and maker.op_type == "Constant")

    def _behind(self, tensor: str) -> str:
        """Past an addition of a bias and an activation, where they alone read it."""
        readers = self.readers.get(tensor, [])
        if len(readers) != 1 or tensor in self.outputs:
            return tensor
        reader = readers[0]
        biased = reader.op_type == "Add" and any(self.is_constant(name) for name in reader.input)
        if reader.op_type in EPILOGUES["relu"] or biased:
            return self._behind(reader.output[0])
        return tensor

    def attentions(self) -> list[Attention]:
        """Softmaxes over the last axis of [..., heads, queries, keys] whose result is multiplied with values."""
        found = []
        for node in self.model.graph.node:
            if node.op_type != "Softmax" or len(self.shape(node.output[0])) not in (3, 4):
                continue
            rank = len(self.shape(node.output[0]))
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            weighs = any(r.op_type == "MatMul" and r.input[0] == node.output[0] and not self.is_constant(r.input[1])
                         for r in self._past_rounding(node.output[0]))  # fmt: skip
            if axis in (-1, rank - 1) and weighs:
                found.append(Attention(node.name or node.output[0], node.input[0], node.output[0]))
        return found

    def _past_rounding(self, tensor: str) -> Iterator[onnx.NodeProto]:
        """Who reads it, and who reads what rounding alone made of it."""
        for reader in self.readers.get(tensor, []):
            if reader.op_type in ("QuantizeLinear", "DequantizeLinear", "Identity", "Dropout"):
                for further in self._past_rounding(reader.output[0]):
                    renamed = type(further)()
                    renamed.CopyFrom(further)
                    renamed.input[:] = [tensor if name == reader.output[0] else name for name in further.input]
                    yield renamed
            else:
                yield reader

    def ranges(self) -> dict[str, RangeUse]:
        """By activation, the range that a QuantizeLinear of the graph itself stores it in."""
        from onnx import numpy_helper

        from toolkit.geometry.analysis.quantization_stability import RangeUse

        found = {}
        for node in self.model.graph.node:
            if node.op_type != "QuantizeLinear" or node.input[0] in self.constants or len(node.input) < 3:
                continue
            scale, zero = (self.constants.get(name) for name in node.input[1:3])
            if scale is None or zero is None:
                continue
            step, point = numpy_helper.to_array(scale), numpy_helper.to_array(zero)
            if step.size == 1 and point.dtype.kind in "iu":
                limits, s, z = np.iinfo(point.dtype), float(step.item()), int(point.item())
                found[node.input[0]] = RangeUse((limits.min - z) * s, (limits.max - z) * s, s, folded=True)
        return found

    def tapped(self, tensors: Sequence[str]) -> Taps:
        """The graph, ready to give `tensors`."""
        return Taps(self, tensors)


class Taps:
    """A session that gives tensors from inside the graph, in groups that memory holds at once."""

    def __init__(self, graph: Graph, tensors: Sequence[str]) -> None:
        from onnx import TensorProto, helper

        model = type(graph.model)()
        model.CopyFrom(graph.model)
        names = list(dict.fromkeys(tensors))
        inputs = {value.name for value in model.graph.input}
        del model.graph.output[:]
        model.graph.output.extend(
            graph.values.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in names
            if name not in inputs
        )
        self._inputs = [name for name in names if name in inputs]
        self._groups = list(_groups(graph, [name for name in names if name not in inputs]))
        self._session = Session(model.SerializeToString()) if self._groups else None

    def run(self, sample: Sample) -> Iterator[dict[str, Array]]:
        """The tensors of one sample, group after group."""
        yield {name: np.asarray(sample[name]) for name in self._inputs}
        for group in self._groups:
            assert self._session is not None
            yield self._session(sample, group)

    def all_of(self, sample: Sample) -> dict[str, Array]:
        """The tensors of one sample, all at once."""
        return {name: value for group in self.run(sample) for name, value in group.items()}


def _groups(graph: Graph, names: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for name in names:
        size = graph.held_bytes(name)
        if group and held + size > _GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group
