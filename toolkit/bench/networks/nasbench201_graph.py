"""The ONNX graph of a NAS-Bench-201 cell's network, written operator by operator in milliseconds.

torch's exporter takes seconds for the same graph, and there are 1,500 cells to read. Weights have a type and a shape;
their values are zeros that come into being when somebody asks for them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from .nasbench201 import CLASSES, STAGES, STEM_CHANNELS, Edge, cell_edges

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["cell_graph"]

_SIDE = 32


def cell_graph(arch: str) -> ir.Model:
    """What exporting `build_cell(arch)` at opset 18 gives, with static shapes, for an image of (1, 3, 32, 32).

    Raises:
        ToolkitError: `arch` is not a cell (see `cell_edges`).
    """
    import onnx_ir as ir

    nodes = cell_edges(arch)
    writer = _Writer()
    image = _value("input", (1, 3, _SIDE, _SIDE))
    x = writer.norm(writer.conv(image, STEM_CHANNELS, 3))
    width = STEM_CHANNELS
    for channels, cells in STAGES:
        if channels != width:
            x = _reduction(writer, x, channels)
        for _ in range(cells):
            x = _cell(writer, nodes, x, channels)
        width = channels
    result = writer.classifier(writer.relu(writer.norm(x)), CLASSES)
    graph = ir.Graph(
        [image],
        [result],
        nodes=writer.nodes,
        initializers=writer.weights,
        opset_imports={"": 18},
        name="nasbench201",
    )
    return ir.Model(graph, ir_version=10)


def _cell(writer: _Writer, nodes: tuple[tuple[Edge, ...], ...], x: ir.Value, channels: int) -> ir.Value:
    made = [x]
    for node in nodes:
        first, *rest = [_edge(writer, edge, made[edge.source], channels) for edge in node]
        for other in rest:
            first = writer.add(first, other)
        made.append(first)
    return made[-1]


def _edge(writer: _Writer, edge: Edge, x: ir.Value, channels: int) -> ir.Value:
    if edge.kernel:
        return writer.relu_conv(x, channels, edge.kernel)
    return writer.pool(x, 3, stride=1, pad=1) if edge.pool else x


def _reduction(writer: _Writer, x: ir.Value, channels: int) -> ir.Value:
    body = writer.relu_conv(writer.relu_conv(x, channels, 3, stride=2), channels, 3)
    return writer.add(body, writer.conv(writer.pool(x, 2, stride=2, pad=0), channels, 1))


class _Writer:
    """Appends nodes, and names values and weights in the order they come."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.weights: list[ir.Value] = []
        self._biases: dict[int, ir.Value] = {}
        self._count = 0

    def conv(self, x: ir.Value, channels: int, kernel: int, stride: int = 1) -> ir.Value:
        """A square convolution that keeps the map's size up to the stride, with the exporter's bias of zeros."""
        _, inputs, side, _ = _dims(x)
        if channels not in self._biases:
            self._biases[channels] = self._weight(channels)
        operands = [x, self._weight(channels, inputs, kernel, kernel), self._biases[channels]]
        pads = [kernel // 2] * 4
        return self._node(
            "Conv", operands, (1, channels, side // stride, side // stride), strides=[stride] * 2, pads=pads
        )

    def norm(self, x: ir.Value) -> ir.Value:
        """Batch norm; scale, shift, mean and variance are weights."""
        channels = _dims(x)[1]
        return self._node("BatchNormalization", [x, *(self._weight(channels) for _ in range(4))], _dims(x))

    def relu(self, x: ir.Value) -> ir.Value:
        """Rectifier."""
        return self._node("Relu", [x], _dims(x))

    def relu_conv(self, x: ir.Value, channels: int, kernel: int, stride: int = 1) -> ir.Value:
        """Rectifier, convolution, batch norm."""
        return self.norm(self.conv(self.relu(x), channels, kernel, stride))

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Sum of two maps of one shape."""
        return self._node("Add", [a, b], _dims(a))

    def pool(self, x: ir.Value, kernel: int, *, stride: int, pad: int) -> ir.Value:
        """Average over what lies inside the map."""
        _, channels, side, _ = _dims(x)
        shape = (1, channels, side // stride, side // stride)
        return self._node(
            "AveragePool", [x], shape, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4,
            count_include_pad=0,
        )  # fmt: skip

    def classifier(self, x: ir.Value, classes: int) -> ir.Value:
        """Global average and one linear layer."""
        channels = _dims(x)[1]
        mean = self._node("ReduceMean", [x, self._integers(-1, -2)], (1, channels, 1, 1), keepdims=1)
        flat = self._node("Reshape", [mean, self._integers(1, channels)], (1, channels))
        return self._node(
            "Gemm", [flat, self._weight(classes, channels), self._weight(classes)], (1, classes), transB=1
        )

    def _node(
        self, op_type: str, operands: list[ir.Value], shape: tuple[int, ...], **attributes: int | list[int]
    ) -> ir.Value:
        import onnx_ir as ir

        self._count += 1
        output = _value(f"{op_type.lower()}_{self._count}", shape)
        kept = [
            ir.AttrInt64s(key, value) if isinstance(value, list) else ir.AttrInt64(key, value)
            for key, value in attributes.items()
        ]
        self.nodes.append(ir.Node("", op_type, operands, kept, outputs=[output], name=f"node_{output.name}"))
        return output

    def _weight(self, *shape: int) -> ir.Value:
        value = _value(f"weight_{len(self.weights)}", shape)
        value.const_value = _zeros(shape)
        self.weights.append(value)
        return value

    def _integers(self, *values: int) -> ir.Value:
        import onnx_ir as ir

        value = ir.Value(
            name=f"weight_{len(self.weights)}",
            shape=ir.Shape((len(values),)),
            type=ir.TensorType(ir.DataType.INT64),
            const_value=ir.tensor(list(values), ir.DataType.INT64),
        )
        self.weights.append(value)
        return value


def _value(name: str, shape: tuple[int, ...]) -> ir.Value:
    import onnx_ir as ir

    return ir.Value(name=name, shape=_shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


@cache
def _shape(shape: tuple[int, ...]) -> ir.Shape:
    """One frozen object for all tensors of a shape: making them takes a third of the time otherwise."""
    import onnx_ir as ir

    return ir.Shape(shape, frozen=True)


@cache
def _zeros(shape: tuple[int, ...]) -> ir.LazyTensor:
    import numpy as np
    import onnx_ir as ir

    return ir.LazyTensor(lambda: ir.tensor(np.zeros(shape, np.float32)), ir.DataType.FLOAT, _shape(shape))


def _dims(x: ir.Value) -> tuple[int, ...]:
    assert x.shape is not None
    return x.shape.numpy()
