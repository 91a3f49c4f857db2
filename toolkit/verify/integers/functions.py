"""Functions of one float, as quotients of polynomials that every processor evaluates with fused products.

Source: onnxruntime 1.32, MLAS's logistic.cpp and tanh.cpp, whose coefficients are Eigen's, and activations.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from passes.dataset import Array
from toolkit.verify.integers.arithmetic import fused_multiply_add
from toolkit.verify.integers.calls import Call, Operator, Unknown

__all__ = ["OPERATORS", "sigmoid", "tanh"]

_SIGMOID = (
    (4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03, 2.48287947061529e-01),
    (6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03, 1.16817656904453e-01,
     9.93151921023180e-01),
)  # fmt: skip
"""In even powers, the highest first: of the odd numerator less one power, and of the denominator."""

_TANH = (
    (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05,
     6.37261928875436e-04, 4.89352455891786e-03),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
)  # fmt: skip


def sigmoid(values: Array) -> Array:
    """1 / (1 + exp(-x)) in float32; up to a unit in the last place above 1, where ARM cuts and 8 bits see nothing."""
    result: Array = _quotient(values, 18, _SIGMOID) + np.float32(0.5)
    return result


def tanh(values: Array) -> Array:
    return _quotient(values, 9, _TANH)


def _quotient(values: Array, reach: float, coefficients: tuple[Sequence[float], Sequence[float]]) -> Array:
    x = np.clip(values, np.float32(-reach), np.float32(reach))
    square = x * x
    above, below = (_polynomial(square, part) for part in coefficients)
    result: Array = above * x / below
    return result


def _polynomial(values: Array, coefficients: Sequence[float]) -> Array:
    total = np.full_like(values, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        total = fused_multiply_add(total, values, np.float32(coefficient))
    return total


def _of(function: Callable[[Array], Array]) -> Operator:
    def run(call: Call) -> list[Array]:
        values = call.array(0)
        if values.dtype != np.float32:
            raise Unknown("of another type than float32")
        return [function(values)]

    return run


def _hard_sigmoid(call: Call) -> list[Array]:
    values = call.array(0)
    if values.dtype != np.float32:
        raise Unknown("of another type than float32")
    slope, offset = (np.float32(call.attributes.get(n, v)) for n, v in (("alpha", 0.2), ("beta", 0.5)))
    line = fused_multiply_add(values, slope, offset) if call.numerics.fused_multiply_add else values * slope + offset
    return [np.clip(line, np.float32(0), np.float32(1))]


OPERATORS: Mapping[str, Operator] = {"HardSigmoid": _hard_sigmoid, "Sigmoid": _of(sigmoid), "Tanh": _of(tanh)}
