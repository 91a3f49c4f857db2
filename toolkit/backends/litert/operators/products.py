"""Matrix products: with constant weights a fully connected layer, else a batch of products."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.layout import Order, identity
from toolkit.backends.litert.lowering import Lower, Lowering, Refused
from toolkit.backends.litert.operators.convolutions import bias_of, product_scale, real_bias, symmetric_int8
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.schema import ACTIVATIONS, PADDINGS
from toolkit.backends.litert.tensors import Quantization, Tensor

__all__ = ["LOWERINGS"]


def _gemm(lowering: Lowering, step: Step) -> None:
    attributes = step.node.attributes
    if any(attributes.get_float(name, 1.0) != 1 for name in ("alpha", "beta")):
        raise Refused("multiplies its product or its bias by a number")
    weights = step.input(1)
    assert weights is not None
    if attributes.get_int("transA", 0):
        raise Refused("transposes its input")
    if not lowering.is_constant(weights):
        raise Refused("has weights that vary with the input")
    bias = lowering.numbers(step.input(2))
    if bias is None and step.input(2) is not None:
        raise Refused("has a bias that varies with the input")
    if bias is not None and bias.size not in (1, lowering.shape(step.output)[-1]):
        raise Refused("has a bias for each row")
    _fully_connected(lowering, step, transposed=bool(attributes.get_int("transB", 0)))


def _matmul(lowering: Lowering, step: Step) -> None:
    first, second = step.node.inputs
    assert first is not None
    assert second is not None
    if lowering.is_constant(second) and len(lowering.shape(second)) == 2 and len(lowering.shape(first)) > 1:
        _fully_connected(lowering, step, transposed=False)
    elif len(lowering.shape(first)) < 2 or len(lowering.shape(second)) < 2:
        raise Refused("multiplies a vector")
    else:
        _batch_matmul(lowering, step)


# ---- constant weights


def _fully_connected(lowering: Lowering, step: Step, *, transposed: bool) -> None:
    x, weights = step.node.inputs[:2]
    assert x is not None
    assert weights is not None
    stored = _rows_of_outputs(lowering.view(weights).tensor, transposed=transposed, order=lowering.shuffled.get(x))
    q = stored.quantization
    per_output = q is None or q.whole or q.axis == 0
    rounding = lowering.integers(step) if symmetric_int8(stored) and per_output else None
    shape = lowering.shape(step.output)
    if rounding is None:
        made = _floats(lowering, step, stored, shape)
    elif q is not None and q.whole:
        made = _integers(lowering, step, stored, shape, rounding)
    else:
        made = _as_convolution(lowering, step, stored, shape, rounding)
    lowering.set(step.output, made, identity(len(shape)))


def _rows_of_outputs(weights: Tensor, *, transposed: bool, order: Array | None) -> Tensor:
    """Weights (outputs, inputs), their columns in the order in which the features lie."""
    assert weights.data is not None
    data, q = weights.data, weights.quantization
    if not transposed:
        data = data.T
        if q is not None and not q.whole:
            q = Quantization(q.scale, q.zero_point, 1 - q.axis)
    if order is not None:
        data = data[:, order]
        if q is not None and not q.whole and q.axis == 1:
            raise Refused("has weights with scales along its inputs")
    return Tensor(weights.name, data.shape, weights.dtype, q, np.ascontiguousarray(data))


def _input(lowering: Lowering, step: Step, *, real: bool) -> Tensor:
    value = step.node.inputs[0]
    assert value is not None
    return lowering.laid(value, identity(len(lowering.shape(value))), real=real)


def _floats(lowering: Lowering, step: Step, weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    operands = [_input(lowering, step, real=True), lowering.dequantized(weights)]
    operands.append(real_bias(lowering, step, shape[-1]))
    return lowering.emit("FULLY_CONNECTED", operands, shape, "float32", None, _options(step, shape))


def _integers(lowering: Lowering, step: Step, weights: Tensor, shape: tuple[int, ...], to: Quantization) -> Tensor:
    x = _input(lowering, step, real=False)
    assert x.quantization is not None
    assert weights.quantization is not None
    bias = bias_of(lowering, step, product_scale(x.quantization, weights.quantization), shape[-1])
    return lowering.emit("FULLY_CONNECTED", [x, weights, bias], shape, "int8", to, _options(step, shape))


def _options(step: Step, shape: tuple[int, ...]) -> dict[str, int]:
    options = {"fused_activation_function": ACTIVATIONS[step.activation]}
    return options | ({"keep_num_dims": True} if len(shape) > 2 else {})


def _as_convolution(
    lowering: Lowering, step: Step, weights: Tensor, shape: tuple[int, ...], to: Quantization
) -> Tensor:
    """A 1x1 convolution: runtimes take scales for each output there since int8 came, in fully connected layers not."""
    x = _input(lowering, step, real=False)
    assert x.quantization is not None
    assert weights.quantization is not None
    assert weights.data is not None
    rows = prod(shape[:-1])
    image = lowering.reshaped(x, (1, 1, rows, x.shape[-1]))
    data = weights.data[:, None, None, :]
    filters = Tensor(weights.name, data.shape, weights.dtype, weights.quantization, data)
    bias = bias_of(lowering, step, product_scale(x.quantization, weights.quantization), shape[-1])
    options = {"padding": PADDINGS["VALID"], "stride_h": 1, "stride_w": 1,
               "fused_activation_function": ACTIVATIONS[step.activation]}  # fmt: skip
    made = lowering.emit("CONV_2D", [image, filters, bias], (1, 1, rows, shape[-1]), "int8", to, options)
    made.name = str(step.output.name)
    return lowering.reshaped(made, shape)


# ---- products of two activations


def _batch_matmul(lowering: Lowering, step: Step) -> None:
    shape = lowering.shape(step.output)
    rounding = lowering.integers(step)
    operands, options = [], {}
    for value in step.node.inputs:
        assert value is not None
        if lowering.is_constant(value) and rounding is not None and lowering.quantization(value) is None:
            rounding = None
    for value, flag in zip(step.node.inputs, ("adj_x", "adj_y"), strict=True):
        assert value is not None
        view = lowering.view(value)
        swapped = _swapped(len(view.order))
        flipped = view.order == swapped and view.tensor.data is None
        tensor = lowering.laid(value, swapped if flipped else identity(len(view.order)), real=rounding is None)
        operands.append(tensor)
        options[flag] = flipped
    dtype = "float32" if rounding is None else "int8"
    made = lowering.emit("BATCH_MATMUL", operands, shape, dtype, rounding, options)
    lowering.set(step.output, made, identity(len(shape)))


def _swapped(rank: int) -> Order:
    return (*range(rank - 2), rank - 1, rank - 2)


LOWERINGS: Mapping[str, Lower] = {"Gemm": _gemm, "MatMul": _matmul}
