"""Small quantized graphs, one for each thing that an integer kernel can do, side by side in one model.

Every case takes integers and gives integers, so a difference of one is told from the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from passes.dataset import Array

__all__ = ["Cases", "cut_apart", "every_case"]

_ONNX_TYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


@dataclass
class Cases:
    """A model as it grows, and what it is given."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    given: dict[str, Array] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def name(self) -> str:
        return f"v{len(self.nodes)}_{len(self.weights)}_{len(self.inputs)}"

    def constant(self, array: Any) -> str:
        name = self.name()
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{self.name()}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def real(self, *shape: int, scale: float = 0.05, zero: int = 3, dtype: str = "int8") -> str:
        """A new input of integers, as floats."""
        info = np.iinfo(dtype)
        name = f"x{len(self.inputs)}"
        self.given[name] = self.rng.integers(info.min, info.max + 1, shape).astype(dtype)
        self.inputs.append(helper.make_tensor_value_info(name, _ONNX_TYPES[dtype], shape))
        return str(self.op("DequantizeLinear", name, *self._steps(scale, zero, dtype)))

    def _steps(self, scale: float, zero: int, dtype: str) -> tuple[str, str]:
        return self.constant(np.float32(scale)), self.constant(np.array(zero, dtype))

    def rounded(self, value: str, scale: float = 0.11, zero: int = -7, dtype: str = "int8") -> str:
        """An output of integers; its name."""
        name = str(self.op("QuantizeLinear", value, *self._steps(scale, zero, dtype)))
        self.outputs.append(helper.make_empty_tensor_value_info(name))
        return name

    def again(self, value: str, scale: float = 0.11, zero: int = -7, dtype: str = "int8") -> str:
        """Floats again, through integers."""
        steps = self._steps(scale, zero, dtype)
        return str(self.op("DequantizeLinear", self.op("QuantizeLinear", value, *steps), *steps))

    def stored(self, *shape: int, axis: int | None = 0, lowest: int = -127) -> str:
        """Weights of int8 with one scale for each output channel, or for all."""
        channels = 1 if axis is None else shape[axis]
        scale = self.rng.uniform(0.002, 0.02, channels).astype(np.float32)
        values = self.rng.integers(lowest, 128, shape).astype(np.int8)
        if axis is None:
            return str(self.op("DequantizeLinear", self.constant(values), self.constant(scale[0])))
        steps = (self.constant(scale), self.constant(np.zeros(channels, np.int8)))
        return str(self.op("DequantizeLinear", self.constant(values), *steps, axis=axis))

    def floats(self, *shape: int) -> str:
        return self.constant(self.rng.normal(0, 1, shape).astype(np.float32))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "cases", self.inputs, self.outputs, self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def every_case() -> Cases:
    c = Cases()
    _convolutions(c)
    _products(c)
    _element_by_element(c)
    _pooling(c)
    _moving(c)
    _at_the_edges(c)
    return c


def _convolutions(c: Cases) -> None:
    for channels, out, group, kernel, attributes in (
        (16, 12, 1, (1, 1), {}),
        (24, 7, 1, (1, 1), {"strides": [2, 2]}),
        (5, 9, 1, (3, 3), {"pads": [1, 1, 1, 1]}),
        (3, 8, 1, (5, 3), {"pads": [2, 0, 1, 1], "strides": [2, 1]}),
        (8, 12, 2, (3, 3), {"pads": [1, 1, 1, 1]}),
        (6, 9, 3, (3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        (40, 40, 40, (3, 3), {"pads": [1, 1, 1, 1]}),
        (33, 33, 33, (5, 5), {"pads": [2, 2, 2, 2], "strides": [2, 2]}),
        (6, 6, 6, (3, 3), {"pads": [1, 1, 1, 1]}),
        (16, 16, 16, (3, 3), {"dilations": [2, 1], "pads": [0, 1, 2, 1]}),
        (4, 8, 4, (3, 3), {}),
        (8, 4, 1, (3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ):
        x = c.real(2, channels, 9, 11)
        y = c.op("Conv", x, c.stored(out, channels // group, *kernel), c.floats(out), group=group, **attributes)
        c.rounded(y)
    series = c.op("Conv", c.real(1, 6, 40), c.stored(10, 6, 5, axis=None), pads=[2, 2])
    c.rounded(c.op("Relu", series), zero=-128)
    c.rounded(c.op("Conv", c.real(1, 20, 31), c.stored(20, 1, 7), group=20, pads=[3, 3], strides=[2]))
    clipped = c.op("Conv", c.real(1, 8, 5, 5), c.stored(8, 8, 3, 3), pads=[1, 1, 1, 1])
    c.rounded(c.op("Clip", clipped, c.constant(np.float32(0)), c.constant(np.float32(6))), scale=0.03)
    for group in (1, 32):  # nothing but the lowest integer on both sides: two products do not fit 16 bits
        x = c.real(1, 32, 4, 4, zero=0)
        c.given[c.inputs[-1].name][:] = -128
        c.rounded(c.op("Conv", x, c.stored(32, 32 // group, 3, 3, lowest=-128), group=group), scale=5.0)
        name = c.nodes[-3].input[0]
        for tensor in c.weights:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(np.full((32, 32 // group, 3, 3), -128, np.int8), name))
    scaled = c.op("DequantizeLinear", c.constant(np.arange(-4, 4, dtype=np.int32) * 100),
                  c.constant(np.full(8, 0.0007, np.float32)), c.constant(np.zeros(8, np.int32)), axis=0)  # fmt: skip
    c.rounded(c.op("Conv", c.real(1, 8, 3, 3), c.stored(8, 8, 1, 1), scaled))


def _products(c: Cases) -> None:
    c.rounded(c.op("Gemm", c.real(3, 50), c.stored(10, 50), c.floats(10), transB=1))
    c.rounded(c.op("Gemm", c.real(1, 24), c.stored(24, 5, axis=1)))
    c.rounded(c.op("MatMul", c.real(2, 5, 16), c.stored(16, 8, axis=1)))
    product = c.op("MatMul", c.real(1, 4, 30), c.stored(30, 6, axis=None))
    c.rounded(c.op("Relu", c.op("Add", c.floats(6), product)))
    c.rounded(c.op("MatMul", c.real(1, 3, 4), c.real(1, 4, 2)))  # nothing stored: in floats


def _element_by_element(c: Cases) -> None:
    for kind in ("Add", "Sub", "Mul"):
        c.rounded(c.op(kind, c.real(2, 5, 3, 3), c.real(2, 5, 3, 3, scale=0.02, zero=-5)))
    both = [c.again(c.op("Conv", c.real(1, 8, 6, 6), c.stored(20, 8, 1, 1)), zero=zero) for zero in (0, 5)]
    c.rounded(c.op("Relu", c.op("Add", *both)), scale=0.2)
    gate = c.again(c.op("GlobalAveragePool", both[0]), scale=0.01)
    c.rounded(c.op("Mul", gate, both[1]))
    c.rounded(c.op("Add", c.real(2, 4, 6), c.stored(6, axis=None)))
    c.rounded(c.op("Sub", c.stored(2, 7, axis=None), c.real(2, 7)))
    c.rounded(c.op("Mul", c.real(1, 6, 4), c.real(1, 6, 1)))  # stretched along the last axis: in floats
    for kind, attributes in (
        ("Sigmoid", {}), ("Tanh", {}), ("HardSwish", {}), ("LeakyRelu", {"alpha": 0.2}), ("Relu", {}), ("Elu", {}),
    ):  # fmt: skip
        c.rounded(c.op(kind, c.real(3, 37), **attributes), scale=0.02, zero=4)
    c.rounded(c.op("PRelu", c.real(1, 9, 4, 4), c.floats(9, 1, 1)))
    c.rounded(c.op("PRelu", c.real(2, 21), c.floats(1, 21)))
    c.rounded(c.op("PRelu", c.real(2, 3, 5), c.floats(1)))
    c.rounded(c.again(c.op("Conv", c.real(1, 8, 2, 2), c.stored(4, 8, 1, 1))), scale=0.07, zero=1)


def _pooling(c: Cases) -> None:
    c.rounded(c.op("MaxPool", c.real(1, 17, 8, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), 0.05, 3)
    padded = c.op("MaxPool", c.real(2, 4, 9), kernel_shape=[3], pads=[1, 1])
    c.rounded(padded, 0.09, 2)
    c.rounded(c.op("AveragePool", c.real(1, 18, 7, 7), kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    c.rounded(c.op("AveragePool", c.real(1, 5, 8), kernel_shape=[2], strides=[2], pads=[1, 0], count_include_pad=1))
    c.rounded(c.op("GlobalAveragePool", c.real(2, 19, 5, 5)), scale=0.01)
    c.rounded(c.op("ReduceMean", c.real(2, 6, 5), c.constant(np.array([-1])), keepdims=0), scale=0.01)
    c.rounded(c.op("ReduceMean", c.real(2, 6, 18), c.constant(np.array([1]))), scale=0.01)
    image = c.again(c.op("Conv", c.real(1, 4, 6, 6), c.stored(18, 4, 3, 3)))
    c.rounded(c.op("ReduceMean", image, c.constant(np.array([2, 3])), keepdims=0), scale=0.05)


def _moving(c: Cases) -> None:
    image = c.again(c.op("Conv", c.real(1, 4, 6, 6), c.stored(18, 4, 3, 3)))
    other = c.again(c.op("Conv", c.real(1, 4, 6, 6), c.stored(3, 4, 3, 3)), scale=0.3, zero=9)
    c.rounded(c.op("Concat", image, other, axis=1))
    c.rounded(c.op("Concat", c.real(2, 3), c.real(2, 4), axis=1), 0.05, 3)
    c.rounded(c.op("Flatten", image))
    c.rounded(c.op("Gemm", c.op("Reshape", image, c.constant(np.array([1, -1]))), c.stored(6, 18 * 16), transB=1))
    c.rounded(c.op("Transpose", image, perm=[0, 2, 3, 1]), scale=0.11, zero=-7)
    apart = c.op("Reshape", image, c.constant(np.array([1, 2, 9, 4, 4])))  # channels shuffled as ShuffleNet does
    c.rounded(c.op("Reshape", c.op("Transpose", apart, perm=[0, 2, 1, 3, 4]), c.constant(np.array([1, 18, 4, 4]))))
    first, second = c.op("Split", image, outputs=2, axis=1, num_outputs=2)
    c.rounded(c.op("Add", first, second))
    c.rounded(c.op("Slice", image, c.constant(np.array([1])), c.constant(np.array([3])), c.constant(np.array([2]))))
    pooled = c.op("MaxPool", c.op("PRelu", image, c.floats(18, 1, 1)), kernel_shape=[2, 2])
    c.rounded(c.op("Reshape", c.op("Transpose", pooled, perm=[0, 3, 2, 1]), c.constant(np.array([1, -1]))))


def _at_the_edges(c: Cases) -> None:
    c.rounded(c.op("Add", c.real(2, 9, dtype="uint8", zero=130), c.real(2, 9)), dtype="uint8", zero=120)
    image = c.real(1, 4, 5, 5, dtype="uint8", zero=128)
    c.rounded(c.op("Relu", c.op("Conv", image, c.stored(6, 4, 3, 3), pads=[1, 1, 1, 1])), dtype="uint8", zero=0)
    sums = c.op("Conv", c.real(1, 8, 4, 4), c.stored(5, 8, 3, 3), c.floats(5))
    c.outputs.append(helper.make_empty_tensor_value_info(sums))
    c.rounded(
        c.op("Softmax", c.again(c.op("Gemm", c.real(1, 12), c.stored(5, 12), transB=1))), scale=1 / 256, zero=-128
    )
    resized = c.op("Resize", c.op("Conv", c.real(1, 2, 3, 3), c.stored(2, 2, 1, 1)), "",
                   c.constant(np.float32([1, 1, 2, 2])), mode="linear")  # fmt: skip
    c.rounded(resized)


def cut_apart(model: onnx.ModelProto, values: dict[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The same operators, each reading given integers in place of those that the one before it makes; and these.

    `values` are those of every QuantizeLinear. Every one of them is an output.
    """
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    given = {}
    for node in cut.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            given[f"{node.input[0]}_given"] = values[node.input[0]]
            node.input[0] += "_given"
    for infos, arrays in ((cut.graph.input, given), (cut.graph.output, values)):
        known = {info.name for info in infos}
        infos.extend(
            helper.make_tensor_value_info(name, _ONNX_TYPES[array.dtype.name], array.shape)
            for name, array in arrays.items()
            if name not in known
        )
    return cut, given
