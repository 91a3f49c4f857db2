"""One operator between DequantizeLinear and QuantizeLinear, with scales and zero points from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from passes.dataset import Array
from toolkit.rng import generator

__all__ = ["CASES", "Case", "made"]


@dataclass(frozen=True)
class Case:
    """An operator: shapes of what varies, of its weights and its bias; whether the result keeps the first scale."""

    op: str
    inputs: Sequence[tuple[int, ...]]
    weights: tuple[int, ...] = ()
    bias: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    same_scale: bool = False
    axes: tuple[int, ...] = ()

    def __str__(self) -> str:
        what = "-".join(f"{k}{v}" for k, v in self.attributes.items()).replace(" ", "")
        return f"{self.op}-{'x'.join(map(str, self.inputs[0]))}-{'x'.join(map(str, self.weights))}-{what}"


def made(
    case: Case, seed: int, dtype: type[np.generic] = np.uint8, *, per_channel: bool = True, ties: bool = False
) -> tuple[bytes, dict[str, Array]]:
    """A network of the operator alone, and integers for its inputs.

    With `ties` all scales are powers of two, so that many results lie halfway between two integers.

    Its scales are such that a fair share of the results lies inside the range.
    """
    rng = generator(seed, str(case))
    low, high = (0, 256) if dtype is np.uint8 else (-128, 128)
    constants: dict[str, Array] = {}
    nodes, names = [], []

    def scaled(name: str, scale: Any, zero: Any) -> list[str]:
        constants[f"{name}.scale"], constants[f"{name}.zero"] = np.asarray(scale, np.float32), np.asarray(zero)
        return [f"{name}.scale", f"{name}.zero"]

    def some(lowest: float, highest: float, shape: Any = ()) -> Any:
        drawn = rng.uniform(lowest, highest, shape)
        return np.exp2(np.rint(np.log2(drawn))) if ties else drawn

    zero = dtype(rng.integers(low, high))
    step = some(0.002, 0.05)
    for position in range(len(case.inputs)):
        name = f"x{position}"
        if position and not case.same_scale:
            zero, step = dtype(rng.integers(low, high)), some(0.002, 0.05)
        nodes.append(helper.make_node("DequantizeLinear", [name, *scaled(name, step, zero)], [f"{name}.real"]))
        names.append(f"{name}.real")
    reach = 127 * step
    if case.weights:
        axis = 0 if case.op == "Conv" or case.attributes.get("transB") else 1
        outputs = case.weights[axis]
        scale = some(0.001, 0.02, outputs if per_channel else ()).astype(np.float32)
        constants["w"] = rng.integers(-127, 128, case.weights).astype(np.int8)
        zeros = np.zeros(scale.shape, np.int8)
        nodes.append(helper.make_node("DequantizeLinear", ["w", *scaled("w", scale, zeros)], ["w.real"], axis=axis))
        names.append("w.real")
        if case.bias:
            constants["b"] = rng.integers(-20000, 20000, case.bias).astype(np.int32)
            each = (np.float32(step) * scale).astype(np.float32)
            nodes.append(helper.make_node("DequantizeLinear", ["b", *scaled("b", each, np.zeros(each.shape, np.int32))],
                                          ["b.real"], axis=0))  # fmt: skip
            names.append("b.real")
        reach = step * 60 * float(scale.max()) * 60 * np.prod(case.weights) ** 0.5 / max(outputs, 1) ** 0.5
    elif case.op == "Mul":
        reach = reach**2
    if case.axes:
        constants["axes"] = np.array(case.axes, np.int64)
        names.append("axes")
    nodes.append(helper.make_node(case.op, names, ["y.real"], **case.attributes))
    span = reach / 127
    result = (step, zero) if case.same_scale else (some(0.5 * span, 2 * span), dtype(rng.integers(low, high)))
    nodes.append(helper.make_node("QuantizeLinear", ["y.real", *scaled("y", *result)], ["y"]))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info(f"x{i}", kind, shape) for i, shape in enumerate(case.inputs)]
    graph = helper.make_graph(
        nodes, "one", inputs, [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    graph.output[0].type.tensor_type.elem_type = kind
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    given = {f"x{i}": rng.integers(low, high, shape).astype(dtype) for i, shape in enumerate(case.inputs)}
    return model.SerializeToString(), given


def _conv(inputs: tuple[int, ...], weights: tuple[int, ...], **attributes: Any) -> Case:
    return Case("Conv", [inputs], weights, weights[0], attributes)


CASES = (
    _conv((1, 3, 9, 9), (8, 3, 3, 3), pads=[1, 1, 1, 1]),
    _conv((2, 8, 7, 7), (16, 8, 1, 1)),
    _conv((1, 16, 6, 5), (24, 16, 3, 3), pads=[1, 0, 0, 1], strides=[2, 2]),
    _conv((1, 5, 9, 9), (7, 5, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2]),
    _conv((1, 32, 5, 5), (16, 32, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    _conv((1, 64, 6, 6), (16, 64, 3, 3), pads=[1, 1, 1, 1]),
    _conv((1, 16, 8, 8), (16, 1, 3, 3), group=16, pads=[1, 1, 1, 1]),
    _conv((1, 12, 8, 8), (12, 1, 5, 5), group=12, pads=[2, 2, 2, 2]),
    _conv((1, 8, 8, 8), (16, 1, 3, 3), group=8, pads=[1, 1, 1, 1]),
    _conv((1, 16, 7, 7), (32, 4, 3, 3), group=4, pads=[1, 1, 1, 1]),
    _conv((1, 6, 33), (10, 6, 5), pads=[2, 2], strides=[2]),
    _conv((1, 16, 20), (16, 1, 3), group=16, pads=[1, 1]),
    Case("Gemm", [(1, 48)], (10, 48), 10, {"transB": 1}),
    Case("Gemm", [(5, 33)], (33, 40), 40),
    Case("MatMul", [(1, 7, 30)], (30, 21)),
    Case("MatMul", [(2, 5, 6), (2, 6, 4)]),
    Case("Add", [(1, 8, 5, 5), (1, 8, 5, 5)]),
    Case("Add", [(1, 8, 5, 5), (1, 8, 1, 1)]),
    Case("Add", [(1, 3), (1, 3)]),
    Case("Mul", [(1, 8, 5, 5), (1, 8, 5, 5)]),
    Case("Mul", [(1, 8, 5, 5), (1, 8, 1, 1)]),
    Case("Concat", [(1, 4, 5, 5), (1, 3, 5, 5)], attributes={"axis": 1}),
    Case("Concat", [(1, 4, 5, 5), (1, 3, 5, 5)], attributes={"axis": 1}, same_scale=True),
    Case("AveragePool", [(1, 6, 9, 9)], attributes={"kernel_shape": [3, 3], "strides": [2, 2]}),
    Case("AveragePool", [(1, 6, 9, 9)], attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case("GlobalAveragePool", [(1, 9, 7, 7)]),
    Case("MaxPool", [(1, 6, 9, 9)], attributes={"kernel_shape": [3, 3], "strides": [2, 2]}, same_scale=True),
    Case("Relu", [(1, 6, 9)]),
    Case("PRelu", [(1, 6, 9), (6, 1)]),
    Case("LeakyRelu", [(1, 6, 9)], attributes={"alpha": 0.1}),
    Case("Sigmoid", [(1, 6, 9)]),
    Case("HardSigmoid", [(1, 6, 9)]),
    Case("HardSwish", [(1, 6, 9)]),
    Case("Softmax", [(1, 6, 9)], attributes={"axis": -1}),
    Case("Tanh", [(1, 6, 9)]),
    Case("Sub", [(1, 8, 5, 5), (1, 8, 5, 5)]),
    Case("Div", [(1, 8, 5, 5), (1, 8, 5, 5)]),
    Case("Transpose", [(1, 8, 5, 4)], attributes={"perm": [0, 2, 3, 1]}, same_scale=True),
)
