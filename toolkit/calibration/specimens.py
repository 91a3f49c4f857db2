"""Small networks of every kind, written as ONNX operator by operator, on which a runtime is measured in minutes.

torch's exporter takes seconds for each of their like. Each stands for a family of architectures, at sizes that put its
time into different things: arithmetic, activations, weights, dispatch. Weights are random and of a fresh network's
size: times do not depend on values, but for denormal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from passes.program import Program, onnx_program
from passes.signature import Signature, TensorSpec
from toolkit.input_shapes import zeros
from toolkit.rng import generator

__all__ = ["SPECIMENS", "Specimen"]

_OPSET = 18
_CLASSES = 100


@dataclass(frozen=True)
class Specimen:
    """A network that can be written; those of one `family` are left out together."""

    family: str
    size: tuple[int, ...]
    write: Callable[..., onnx.ModelProto]

    @property
    def name(self) -> str:
        return "-".join((self.family, *map(str, self.size)))

    def model(self) -> onnx.ModelProto:
        """The network, with static shapes; equal at every call."""
        return self.write(_Net(self.name), *self.size)

    def program(self) -> Program:
        """The network as passes take it."""
        model = self.model()
        made = [[_spec(value) for value in values] for values in (model.graph.input, model.graph.output)]
        signature = Signature(*map(tuple, made))
        example = {spec.name: zeros(spec) for spec in signature.inputs}
        return onnx_program(self.name, onnx_ir.from_proto(model), signature, example)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    return TensorSpec(value.name, "float32", tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]


class _Net:
    """Appends nodes to a graph and follows their shapes; images are (1, channels, side, side)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rng = generator(0, "specimen", name)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, *shape: int) -> _Tensor:
        self._inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
        return _Tensor("x", shape)

    def model(self, result: _Tensor) -> onnx.ModelProto:
        self._nodes[-1].output[0] = "y"
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, result.shape)]
        graph = helper.make_graph(self._nodes, self._name, self._inputs, outputs, self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)

    def node(self, op_type: str, operands: Sequence[_Tensor], shape: tuple[int, ...], **attributes: Any) -> _Tensor:
        made = _Tensor(f"{op_type.lower()}_{len(self._nodes)}", shape)
        inputs = [operand.name for operand in operands]
        self._nodes.append(helper.make_node(op_type, inputs, [made.name], name=f"node_{made.name}", **attributes))
        return made

    def constant(self, values: Any) -> _Tensor:
        array = np.asarray(values)
        name = f"weight_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return _Tensor(name, array.shape)

    def weight(self, *shape: int, depth: int) -> _Tensor:
        """Numbers that keep the scale of what they are multiplied with, `depth` at a time."""
        return self.constant((self._rng.standard_normal(shape) * (2 / depth) ** 0.5).astype(np.float32))

    # ---- images

    def conv(self, x: _Tensor, columns: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> _Tensor:
        _, channels, side, _ = x.shape
        depth = channels // groups * kernel**2
        operands = [x, self.weight(columns, channels // groups, kernel, kernel, depth=depth), self._bias(columns)]
        shape = (1, columns, -(-side // stride), -(-side // stride))
        return self.node(
            "Conv", operands, shape, kernel_shape=[kernel] * 2, strides=[stride] * 2, group=groups,
            pads=_pads(side, kernel, stride),
        )  # fmt: skip

    def conv_relu(self, x: _Tensor, columns: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> _Tensor:
        return self.map("Relu", self.conv(x, columns, kernel, stride, groups))

    def depthwise(self, x: _Tensor, kernel: int = 3, stride: int = 1) -> _Tensor:
        return self.conv(x, x.shape[1], kernel, stride, groups=x.shape[1])

    def map(self, op_type: str, *operands: _Tensor, **attributes: Any) -> _Tensor:
        """An operator whose result has the shape of its first operand."""
        return self.node(op_type, operands, operands[0].shape, **attributes)

    def pool(self, x: _Tensor, op_type: str = "MaxPool", kernel: int = 2, stride: int = 2) -> _Tensor:
        _, channels, side, _ = x.shape
        shape = (1, channels, -(-side // stride), -(-side // stride))
        pads = _pads(side, kernel, stride)
        return self.node(op_type, [x], shape, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def concat(self, *parts: _Tensor) -> _Tensor:
        _, _, *rest = parts[0].shape
        return self.node("Concat", parts, (1, sum(part.shape[1] for part in parts), *rest), axis=1)

    def squeeze(self, x: _Tensor) -> _Tensor:
        """Channels weighed by what they hold as a whole (squeeze and excitation)."""
        mean = self.node("GlobalAveragePool", [x], (1, x.shape[1], 1, 1))
        gate = self.map("HardSigmoid", self.conv(self.conv_relu(mean, x.shape[1] // 4), x.shape[1]))
        return self.map("Mul", x, gate)

    def classifier(self, x: _Tensor) -> _Tensor:
        mean = self.node("GlobalAveragePool", [x], (1, x.shape[1], 1, 1))
        return self.linear(self.node("Flatten", [mean], (1, x.shape[1])), _CLASSES)

    # ---- rows

    def linear(self, x: _Tensor, columns: int) -> _Tensor:
        """A product of the last dimension with weights, and a bias."""
        *rows, depth = x.shape
        weight, bias = self.weight(depth, columns, depth=depth), self._bias(columns)
        if len(rows) == 1:
            return self.node("Gemm", [x, weight, bias], (*rows, columns))
        return self.map("Add", self.node("MatMul", [x, weight], (*rows, columns)), bias)

    def norm(self, x: _Tensor) -> _Tensor:
        width = x.shape[-1]
        scale, shift = self.constant(np.ones(width, np.float32)), self._bias(width)
        return self.map("LayerNormalization", x, scale, shift, axis=-1)

    def gelu(self, x: _Tensor) -> _Tensor:
        half, one, root = (self.constant(np.float32(value)) for value in (0.5, 1.0, 2**0.5))
        share = self.map("Add", self.map("Erf", self.map("Div", x, root)), one)
        return self.map("Mul", self.map("Mul", x, share), half)

    def transpose(self, x: _Tensor, *order: int) -> _Tensor:
        return self.node("Transpose", [x], tuple(x.shape[i] for i in order), perm=order)

    def reshape(self, x: _Tensor, *shape: int) -> _Tensor:
        return self.node("Reshape", [x, self.constant(np.array(shape, np.int64))], shape)

    def patches(self, image: _Tensor, patch: int, width: int) -> _Tensor:
        """(1, tokens, width) of the patches of an image."""
        side = image.shape[2] // patch
        weight = self.weight(width, 3, patch, patch, depth=3 * patch**2)
        made = self.node("Conv", [image, weight, self._bias(width)], (1, width, side, side), strides=[patch] * 2)
        return self.transpose(self.reshape(made, 1, width, side**2), 0, 2, 1)

    def _bias(self, columns: int) -> _Tensor:
        return self.constant((0.1 * self._rng.standard_normal(columns)).astype(np.float32))


def _pads(side: int, kernel: int, stride: int) -> list[int]:
    """What makes the result as large as the map, divided by the stride and rounded up."""
    total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
    return [total // 2] * 2 + [total - total // 2] * 2


# ---- families, from the papers' blocks


def _plain(net: _Net, side: int, width: int) -> onnx.ModelProto:
    """Dense 3x3 convolutions and pools, then wide linear layers (VGG)."""
    x = net.input(1, 3, side, side)
    for columns in (width, 2 * width, 4 * width, 8 * width):
        x = net.pool(net.conv_relu(net.conv_relu(x, columns, 3), columns, 3))
    flat = net.node("Flatten", [x], (1, x.shape[1] * x.shape[2] * x.shape[3]))
    hidden = net.map("Relu", net.linear(flat, 16 * width))
    return net.model(net.linear(hidden, _CLASSES))


def _residual(net: _Net, side: int, width: int) -> onnx.ModelProto:
    """Pairs of 3x3 convolutions with a sum around them (ResNet-18)."""
    x = net.pool(net.conv_relu(net.input(1, 3, side, side), width, 7, 2), kernel=3)
    for stage, columns in enumerate((width, 2 * width, 4 * width, 8 * width)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            inner = net.conv(net.conv_relu(x, columns, 3, stride), columns, 3)
            around = x if x.shape == inner.shape else net.conv(x, columns, 1, stride)
            x = net.map("Relu", net.map("Add", inner, around))
    return net.model(net.classifier(x))


def _bottleneck(net: _Net, side: int, width: int, groups: int) -> onnx.ModelProto:
    """1x1, 3x3, 1x1 with a sum around them; the 3x3 in groups (ResNet-50, ResNeXt, RegNet)."""
    x = net.pool(net.conv_relu(net.input(1, 3, side, side), width, 3, 2), kernel=3)
    for stage in range(3):
        columns = width * 2**stage
        for block in range(3):
            stride = 2 if stage and not block else 1
            inner = net.conv_relu(net.conv_relu(x, columns), columns, 3, stride, groups)
            inner = net.conv(inner, 4 * columns)
            around = x if x.shape == inner.shape else net.conv(x, 4 * columns, 1, stride)
            x = net.map("Relu", net.map("Add", inner, around))
    return net.model(net.classifier(x))


def _separable(net: _Net, side: int, width: int) -> onnx.ModelProto:
    """Depthwise and pointwise convolutions in turns (MobileNet v1)."""
    x = net.conv_relu(net.input(1, 3, side, side), width, 3, 2)
    for columns, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1), (16, 1), (32, 2)):
        x = net.conv_relu(net.map("Relu", net.depthwise(x, stride=stride)), columns * width)
    return net.model(net.classifier(x))


def _inverted(net: _Net, side: int, width: int, kernel: int) -> onnx.ModelProto:
    """Expanded, depthwise, projected, with a sum around (MobileNet v2); at 5x5 with squeezing and hard swish (v3)."""
    squeezing = kernel > 3
    limits = [net.constant(np.float32(value)) for value in (0, 6)]

    def bend(x: _Tensor) -> _Tensor:
        return net.map("HardSwish", x) if squeezing else net.map("Clip", x, *limits)

    x = bend(net.conv(net.input(1, 3, side, side), 2 * width, 3, 2))
    for columns, stride in ((1, 1), (2, 2), (2, 1), (3, 2), (3, 1), (6, 2), (6, 1), (6, 1), (10, 2), (10, 1)):
        wide = bend(net.depthwise(bend(net.conv(x, 6 * x.shape[1])), kernel, stride))
        inner = net.conv(net.squeeze(wide) if squeezing else wide, columns * width)
        x = net.map("Add", inner, x) if inner.shape == x.shape else inner
    return net.model(net.classifier(bend(net.conv(x, 4 * x.shape[1]))))


def _fire(net: _Net, side: int, width: int) -> onnx.ModelProto:
    """Few channels, widened by 1x1 and 3x3 side by side (SqueezeNet)."""
    x = net.pool(net.conv_relu(net.input(1, 3, side, side), 4 * width, 3, 2), kernel=3)
    for i, columns in enumerate((1, 1, 2, 2, 3, 4)):
        narrow = net.conv_relu(x, columns * width)
        x = net.concat(net.conv_relu(narrow, 4 * columns * width), net.conv_relu(narrow, 4 * columns * width, 3))
        x = net.pool(x, kernel=3) if i in (1, 3) else x
    return net.model(net.classifier(x))


def _dense(net: _Net, side: int, growth: int) -> onnx.ModelProto:
    """Every layer reads all before it (DenseNet)."""
    x = net.pool(net.conv_relu(net.input(1, 3, side, side), 2 * growth, 7, 2), kernel=3)
    for layers in (4, 6, 8):
        for _ in range(layers):
            x = net.concat(x, net.conv(net.conv_relu(net.map("Relu", x), 4 * growth), growth, 3))
        x = net.pool(net.conv(net.map("Relu", x), x.shape[1] // 2), "AveragePool")
    return net.model(net.classifier(x))


def _attention(net: _Net, patch: int, width: int, depth: int) -> onnx.ModelProto:
    """Attention between patches of an image, and two linear layers on each (ViT)."""
    x = net.patches(net.input(1, 3, 224, 224), patch, width)
    _, tokens, _ = x.shape
    heads = width // 32
    for _ in range(depth):
        normed = net.norm(x)
        q, k, v = (
            net.transpose(net.reshape(net.linear(normed, width), 1, tokens, heads, 32), *order)
            for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
        )
        scale = net.constant(np.float32(32**-0.5))
        scores = net.map("Mul", net.node("MatMul", [q, k], (1, heads, tokens, tokens)), scale)
        mixed = net.node("MatMul", [net.map("Softmax", scores, axis=-1), v], (1, heads, tokens, 32))
        joined = net.reshape(net.transpose(mixed, 0, 2, 1, 3), 1, tokens, width)
        x = net.map("Add", x, net.linear(joined, width))
        x = net.map("Add", x, net.linear(net.gelu(net.linear(net.norm(x), 4 * width)), width))
    return net.model(net.linear(net.norm(x), _CLASSES))


def _mixer(net: _Net, patch: int, width: int) -> onnx.ModelProto:
    """Linear layers over patches and over channels in turns (MLP-Mixer)."""
    x = net.patches(net.input(1, 3, 224, 224), patch, width)
    tokens = x.shape[1]
    for _ in range(4):
        across = net.transpose(net.norm(x), 0, 2, 1)
        across = net.linear(net.gelu(net.linear(across, 2 * tokens)), tokens)
        x = net.map("Add", x, net.transpose(across, 0, 2, 1))
        x = net.map("Add", x, net.linear(net.gelu(net.linear(net.norm(x), 4 * width)), width))
    return net.model(net.linear(net.norm(x), _CLASSES))


def _perceptron(net: _Net, width: int, depth: int) -> onnx.ModelProto:
    """Linear layers on one row: nothing but weights."""
    x = net.input(1, width)
    for _ in range(depth):
        x = net.map("Relu", net.linear(x, width))
    return net.model(net.linear(x, _CLASSES))


def _recurrent(net: _Net, steps: int, width: int) -> onnx.ModelProto:
    """Two LSTM layers."""
    x = net.input(steps, 1, width)
    for _ in range(2):
        gates = [net.weight(1, 4 * width, width, depth=width) for _ in range(2)]
        bias = net.constant(np.zeros((1, 8 * width), np.float32))
        x = net.reshape(net.node("LSTM", [x, *gates, bias], (steps, 1, 1, width), hidden_size=width), steps, 1, width)
    return net.model(net.linear(x, _CLASSES))


_FAMILIES: tuple[tuple[str, Callable[..., onnx.ModelProto], tuple[tuple[int, ...], ...]], ...] = (
    ("plain", _plain, ((64, 16), (96, 32), (160, 24))),
    ("residual", _residual, ((96, 32), (128, 64), (224, 24))),
    ("bottleneck", _bottleneck, ((128, 32, 1), (192, 64, 1), (160, 64, 16))),
    ("separable", _separable, ((96, 16), (160, 24), (224, 32))),
    ("inverted", _inverted, ((96, 8, 3), (160, 16, 3), (224, 16, 3), (128, 12, 5), (224, 16, 5))),
    ("fire", _fire, ((128, 16), (224, 16), (160, 32))),
    ("dense", _dense, ((128, 16), (192, 32))),
    ("attention", _attention, ((32, 128, 4), (16, 192, 4), (16, 96, 8), (32, 384, 3))),
    ("mixer", _mixer, ((16, 128), (32, 256))),
    ("perceptron", _perceptron, ((512, 4), (1536, 3))),
    ("recurrent", _recurrent, ((32, 128), (64, 256))),
)


def _all() -> Iterator[Specimen]:
    for family, write, sizes in _FAMILIES:
        for size in sizes:
            yield Specimen(family, size, write)


SPECIMENS = tuple(_all())
"""From every family, two sizes at least."""
