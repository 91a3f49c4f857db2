"""Functions of one operand, element by element, and softmax along an axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from toolkit.backends.litert.lowering import Lower, Lowering, Refused, dtype_of
from toolkit.backends.litert.operators.arithmetic import operand
from toolkit.backends.litert.reading import Step, bounds
from toolkit.backends.litert.schema import ACTIVATIONS, TYPES
from toolkit.backends.litert.tensors import Quantization, Tensor

__all__ = ["LOWERINGS", "rounded_twice"]

UNIT = Quantization.of(1 / 256, -128)
"""The scale of results in 0..1 that integer kernels insist on."""

SIGNED_UNIT = Quantization.of(1 / 128, 0)


def rounded_twice(lowering: Lowering, first: Quantization, to: Quantization) -> bool:
    """Whether rounding to `first` before `to` moves a result by one step at most; integers alone have no choice."""
    return lowering.edges.integers or first.step <= 2 * to.step


def _floats(lowering: Lowering, step: Step, code: str, options: Mapping[str, float] | None = None) -> None:
    value = step.node.inputs[0]
    assert value is not None
    order = lowering.view(value).order
    x = lowering.laid(value, order, real=True)
    lowering.set(step.output, lowering.emit(code, [x], x.shape, x.dtype, None, options), order)


@dataclass(frozen=True)
class _Function:
    """A kernel of one operand: floats always; integers of any scale, or of one that it insists on."""

    code: str
    any_scale: bool = False
    fixed: Quantization | None = None
    options: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, lowering: Lowering, step: Step) -> None:
        rounding = lowering.integers(step)
        to = rounding if self.any_scale else self.fixed
        if rounding is None or to is None or not (self.any_scale or rounded_twice(lowering, to, rounding)):
            _floats(lowering, step, self.code, self.options)
            return
        value = step.node.inputs[0]
        assert value is not None
        order = lowering.view(value).order
        x = lowering.laid(value, order)
        made = lowering.emit(self.code, [x], x.shape, "int8", to, self.options)
        lowering.set(step.output, lowering.requantized(made, rounding), order)


def _clamped(lowering: Lowering, step: Step) -> None:
    limits = bounds(step.node)
    value = step.node.inputs[0]
    assert value is not None
    if limits is None:
        raise Refused("has limits that vary with the input")
    rounding, order = lowering.integers(step), lowering.view(value).order
    if rounding is not None and _saturates(limits, rounding):
        x = lowering.laid(value, order)
        lowering.set(step.output, lowering.requantized(x, rounding), order)
        return
    code = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}.get(limits)
    if code is not None and rounding is not None:
        x = lowering.laid(value, order)
        lowering.set(step.output, lowering.emit(code, [x], x.shape, "int8", rounding), order)
    elif code is not None:
        _floats(lowering, step, code)
    else:
        _limited(lowering, step, limits)


def _saturates(limits: tuple[float, float], q: Quantization) -> bool:
    """Whether all that int8 holds in this scale lies within the limits, to rounding."""
    return limits[0] <= q.lowest + q.step / 2 and limits[1] >= q.highest - q.step / 2


def _limited(lowering: Lowering, step: Step, limits: tuple[float, float]) -> None:
    value = step.node.inputs[0]
    assert value is not None
    order = lowering.view(value).order
    x = lowering.laid(value, order, real=True)
    for code, limit in (("MAXIMUM", limits[0]), ("MINIMUM", limits[1])):
        if np.isfinite(limit):
            x = lowering.emit(code, [x, lowering.constant(np.array(limit, x.dtype))], x.shape, x.dtype)
    lowering.set(step.output, x, order)


def _softmax(lowering: Lowering, step: Step, *, code: str = "SOFTMAX") -> None:
    value = step.node.inputs[0]
    assert value is not None
    shape = lowering.shape(value)
    default = -1 if step.node.version is None or step.node.version >= 13 else 1
    axis = step.node.attributes.get_int("axis", default) % len(shape)
    if default == 1 and any(size != 1 for size in shape[axis + 1 :]):
        raise Refused("normalises over several axes, as softmax did before opset 13")
    order = lowering.view(value).order
    if order[-1] != axis:
        order = (*(a for a in order if a != axis), axis)
    rounding = lowering.integers(step) if code == "SOFTMAX" else None
    options = {"beta": 1.0} if code == "SOFTMAX" else {}
    if rounding is None or not rounded_twice(lowering, UNIT, rounding):
        x = lowering.laid(value, order, real=True)
        lowering.set(step.output, lowering.emit(code, [x], x.shape, "float32", None, options), order)
        return
    x = lowering.laid(value, order)
    made = lowering.emit(code, [x], x.shape, "int8", UNIT, options)
    lowering.set(step.output, lowering.requantized(made, rounding), order)


def _log_softmax(lowering: Lowering, step: Step) -> None:
    _softmax(lowering, step, code="LOG_SOFTMAX")


def _leaky_relu(lowering: Lowering, step: Step) -> None:
    options = {"alpha": step.node.attributes.get_float("alpha", 0.01)}
    value, rounding = step.node.inputs[0], lowering.integers(step)
    assert value is not None
    if rounding is None:
        _floats(lowering, step, "LEAKY_RELU", options)
        return
    order = lowering.view(value).order
    x = lowering.laid(value, order)
    lowering.set(step.output, lowering.emit("LEAKY_RELU", [x], x.shape, "int8", rounding, options), order)


def _prelu(lowering: Lowering, step: Step) -> None:
    value, slope = step.node.inputs
    assert value is not None
    assert slope is not None
    numbers = lowering.need_numbers(step, 1, "slopes")
    order = lowering.view(value).order
    rounding = lowering.integers(step)
    q, stored = lowering.quantization(value), lowering.quantization(slope)
    if rounding is not None and q is not None and stored is None:
        stored = Quantization.of(float(np.abs(numbers).max(initial=0)) / 127 or 1.0, 0)
        if not lowering.edges.integers and stored.step / 2 * abs(q.lowest) / rounding.step > 0.5:
            rounding = None  # the rounding of the slopes would be seen in the result
    x = lowering.laid(value, order, real=rounding is None)
    slopes = operand(lowering, slope, order, real=rounding is None)
    slopes = _without_batch(lowering, slopes, x)
    if rounding is not None and slopes.quantization is None:
        assert stored is not None
        assert slopes.data is not None
        rounded = np.rint(slopes.data / np.float32(stored.step)).astype(np.int8)
        slopes = lowering.constant(rounded, stored)
    dtype = "float32" if rounding is None else "int8"
    lowering.set(step.output, lowering.emit("PRELU", [x, slopes], x.shape, dtype, rounding), order)


def _without_batch(lowering: Lowering, slopes: Tensor, x: Tensor) -> Tensor:
    """Slopes with the axes of `x` but the first, as the kernel wants them."""
    sizes = (1,) * (len(x.shape) - len(slopes.shape)) + slopes.shape
    if sizes[0] != 1:
        raise Refused("has slopes for each sample")
    return lowering.reshaped(slopes, sizes[1:])


def _hard_sigmoid(lowering: Lowering, step: Step) -> None:
    """max(0, min(1, alpha x + beta))"""
    attributes, value = step.node.attributes, step.node.inputs[0]
    assert value is not None
    order = lowering.view(value).order
    x = lowering.laid(value, order, real=True)
    for code, number in (("MUL", attributes.get_float("alpha", 0.2)), ("ADD", attributes.get_float("beta", 0.5))):
        other = lowering.constant(np.array(number, np.float32))
        x = lowering.emit(code, [x, other], x.shape, x.dtype, None, {"fused_activation_function": 0})
    for code, number in (("MAXIMUM", 0.0), ("MINIMUM", 1.0)):
        x = lowering.emit(code, [x, lowering.constant(np.array(number, np.float32))], x.shape, x.dtype)
    lowering.set(step.output, x, order)


def _gelu(lowering: Lowering, step: Step) -> None:
    tanh = step.node.attributes.get_string("approximate", "none") == "tanh"
    _Function("GELU", any_scale=True, options={"approximate": tanh})(lowering, step)


def _elu(lowering: Lowering, step: Step) -> None:
    if step.node.attributes.get_float("alpha", 1.0) != 1:
        raise Refused("has another alpha than 1")
    _Function("ELU", any_scale=True)(lowering, step)


def _reciprocal(lowering: Lowering, step: Step) -> None:
    value = step.node.inputs[0]
    assert value is not None
    order = lowering.view(value).order
    x = lowering.laid(value, order, real=True)
    one = lowering.constant(np.array(1, np.float32))
    made = lowering.emit("DIV", [one, x], x.shape, x.dtype, None, {"fused_activation_function": 0})
    lowering.set(step.output, made, order)


def _softplus(lowering: Lowering, step: Step) -> None:
    """max(x, 0) + log(1 + exp(-|x|)), which no large x overflows"""
    value = step.node.inputs[0]
    assert value is not None
    order = lowering.view(value).order
    x = lowering.laid(value, order, real=True)
    size = lowering.emit("ABS", [x], x.shape, x.dtype)
    falling = lowering.emit("EXP", [lowering.emit("NEG", [size], x.shape, x.dtype)], x.shape, x.dtype)
    one = lowering.constant(np.array(1, np.float32))
    options = {"fused_activation_function": ACTIVATIONS[""]}
    beyond = lowering.emit("ADD", [falling, one], x.shape, x.dtype, None, options)
    above = lowering.emit("LOG", [beyond], x.shape, x.dtype)
    positive = lowering.emit("RELU", [x], x.shape, x.dtype)
    lowering.set(step.output, lowering.emit("ADD", [positive, above], x.shape, x.dtype, None, options), order)


_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_ERF_BEND = 0.3275911
_STEEP = 1e30


def _erf(lowering: Lowering, step: Step) -> None:
    """To 1.5e-7, as sign(x) (1 - t (a1 + t (a2 + ...)) exp(-x^2)) with t = 1 / (1 + p |x|).

    Source: Abramowitz and Stegun 1964, 7.1.26.
    """
    value = step.node.inputs[0]
    assert value is not None
    order = lowering.view(value).order
    x = lowering.laid(value, order, real=True)

    def both(code: str, a: Tensor | float, b: Tensor | float) -> Tensor:
        pair = [t if isinstance(t, Tensor) else lowering.constant(np.array(t, np.float32)) for t in (a, b)]
        return lowering.emit(code, pair, x.shape, x.dtype, None, {"fused_activation_function": ACTIVATIONS[""]})

    def one(code: str, a: Tensor) -> Tensor:
        return lowering.emit(code, [a], x.shape, x.dtype)

    t = both("DIV", 1.0, both("ADD", both("MUL", one("ABS", x), _ERF_BEND), 1.0))
    series = both("MUL", t, _ERF[-1])
    for factor in reversed(_ERF[:-1]):
        series = both("MUL", both("ADD", series, factor), t)
    size = both("SUB", 1.0, both("MUL", series, one("EXP", one("NEG", both("MUL", x, x)))))
    sign = one("RELU_N1_TO_1", both("MUL", x, _STEEP))
    lowering.set(step.output, both("MUL", size, sign), order)


def _same(lowering: Lowering, step: Step) -> None:
    value = step.node.inputs[0]
    assert value is not None
    lowering.set_view(step.output, lowering.view(value))


def _cast(lowering: Lowering, step: Step) -> None:
    value = step.node.inputs[0]
    assert value is not None
    source, target = dtype_of(value), dtype_of(step.output)
    if source == target:
        _same(lowering, step)
        return
    if source not in TYPES or target not in TYPES:
        raise Refused(f"converts {source} to {target}")
    order = lowering.view(value).order
    x = lowering.laid(value, order, real=True)
    options = {"in_data_type": TYPES[x.dtype], "out_data_type": TYPES[target]}
    lowering.set(step.output, lowering.emit("CAST", [x], x.shape, target, None, options), order)


def _truth(lowering: Lowering, step: Step) -> None:
    _floats(lowering, step, "LOGICAL_NOT")


_FUNCTIONS = {
    "Abs": _Function("ABS", any_scale=True),
    "Ceil": _Function("CEIL"),
    "Cos": _Function("COS"),
    "Exp": _Function("EXP", any_scale=True),
    "Floor": _Function("FLOOR"),
    "HardSwish": _Function("HARD_SWISH", any_scale=True),
    "Log": _Function("LOG", any_scale=True),
    "Neg": _Function("NEG"),
    "Round": _Function("ROUND"),
    "Sigmoid": _Function("LOGISTIC", fixed=UNIT),
    "Sin": _Function("SIN"),
    "Sqrt": _Function("SQRT"),
    "Tanh": _Function("TANH", fixed=SIGNED_UNIT),
}

LOWERINGS: Mapping[str, Lower] = {
    **_FUNCTIONS,
    "Cast": _cast,
    "Clip": _clamped,
    "Dropout": _same,
    "Elu": _elu,
    "Erf": _erf,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "Identity": _same,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _log_softmax,
    "Not": _truth,
    "PRelu": _prelu,
    "Reciprocal": _reciprocal,
    "Relu": _clamped,
    "Softmax": _softmax,
    "Softplus": _softplus,
}
