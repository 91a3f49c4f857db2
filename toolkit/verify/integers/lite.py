"""Run the .tflite that is written from a network, one operator after the other.

The file's operators are those of `toolkit.backends.litert`, which writes the same bytes for the same graph. What has no
arithmetic here is left to LiteRT's own kernel for that operator alone, and named in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.tensors import Draft, Operator, Quantization, Tensor
from toolkit.backends.litert.writing import SIGNATURE_KEY, file_bytes
from toolkit.verify.integers.calls import Run, Unknown
from toolkit.verify.integers.litert_kernels import loaded
from toolkit.verify.integers.numerics import Numerics

__all__ = ["LiteCall", "LiteOperator", "Network"]


@dataclass(frozen=True)
class LiteCall:
    """One run of an operator of a .tflite: the tensors, which carry scales, and the arrays in them."""

    operator: Operator
    operands: Sequence[Array | None]
    numerics: Numerics

    def array(self, position: int) -> Array:
        value = self.operands[position] if position < len(self.operands) else None
        if value is None:
            raise Unknown(f"without operand {position}")
        return value

    def tensor(self, position: int) -> Tensor:
        found = self.operator.inputs[position]
        assert found is not None
        return found

    def scale(self, position: int) -> Quantization:
        """Of an operand of 8-bit integers."""
        tensor = self.tensor(position)
        if tensor.quantization is None or tensor.dtype != "int8":
            raise Unknown("computes in floats" if tensor.dtype.startswith("float") else f"computes in {tensor.dtype}")
        return tensor.quantization

    @property
    def result(self) -> Quantization:
        """Of the result, 8-bit integers."""
        made = self.operator.outputs[0]
        if made.quantization is None or made.dtype != "int8":
            raise Unknown(f"gives {made.dtype}")
        return made.quantization

    def option(self, name: str, default: Any = 0) -> Any:
        return self.operator.options.get(name, default)


LiteOperator = Callable[[LiteCall], list[Array]]
"""From a call to its results."""


class Network:
    """A device that runs the operators of a draft, which is what the file holds."""

    def __init__(self, draft: Draft, operators: Mapping[str, LiteOperator], numerics: Numerics) -> None:
        self._draft, self._operators, self._numerics = draft, operators, numerics
        self._alone: dict[int, Any] = {}

    def __call__(self, inputs: Mapping[str, Array]) -> Run:
        """The run in the file's own types and order of axes."""
        values: dict[int, Array] = {id(t): inputs[name] for name, t in self._draft.inputs.items()}
        run = Run({}, {})
        for position, operator in enumerate(self._draft.operators):
            operands = [None if t is None else t.data if t.data is not None else values[id(t)] for t in operator.inputs]
            for tensor, array in zip(operator.outputs, self._results(position, operator, operands, run), strict=True):
                values[id(tensor)] = array.reshape(tensor.shape)
                if array.dtype in (np.int8, np.uint8) and operator.code not in _MOVES:
                    run.integers[_called(operator, position)] = values[id(tensor)]
        for name, tensor in self._draft.outputs.items():
            run.outputs[name] = values[id(tensor)] if tensor.data is None else tensor.data
        return run

    def _results(
        self, position: int, operator: Operator, operands: Sequence[Array | None], run: Run
    ) -> Sequence[Array]:
        try:
            if operator.code not in self._operators:
                if operator.code in _MOVES:
                    return self._by_litert(position, operator, operands)
                raise Unknown("has no arithmetic here" if _stored(operands) else "computes in floats")
            return self._operators[operator.code](LiteCall(operator, operands, self._numerics))
        except Unknown as reason:
            run.elsewhere[_called(operator, position)] = f"{operator.code} {reason}"
            return self._by_litert(position, operator, operands)

    def _by_litert(self, position: int, operator: Operator, operands: Sequence[Array | None]) -> Sequence[Array]:
        if position not in self._alone:
            self._alone[position] = _loaded(operator, reference=self._numerics.multipliers == "fixed_point")
        runner, inputs = self._alone[position]
        answers = runner(**{f"x{i}": np.asarray(operands[i], order="C") for i in inputs})
        return [answers[f"y{i}"] for i in range(len(operator.outputs))]


_MOVES = frozenset(
    "RESHAPE TRANSPOSE SLICE STRIDED_SLICE SPLIT SPLIT_V GATHER PAD PADV2 CONCATENATION MAX_POOL_2D MAXIMUM MINIMUM "
    "REDUCE_MAX REDUCE_MIN EXPAND_DIMS SQUEEZE TILE BROADCAST_TO RESIZE_NEAREST_NEIGHBOR DEPTH_TO_SPACE".split()
)
"""Numbers come out as they went in, each of them one that went in: there is nothing to round."""


def _stored(operands: Sequence[Array | None]) -> bool:
    """Whether it works on 8-bit integers."""
    return any(o is not None and o.dtype in (np.int8, np.uint8) for o in operands)


def _called(operator: Operator, position: int) -> str:
    return operator.outputs[0].name or f"{operator.code} {position}"


def _loaded(operator: Operator, *, reference: bool) -> tuple[Any, list[int]]:
    """The operator as a file of its own in LiteRT, and which operands it takes."""
    inputs = {f"x{i}": replace(t) for i, t in enumerate(operator.inputs) if t is not None and t.data is None}
    outputs = [replace(t) for t in operator.outputs]
    own = [inputs.get(f"x{i}", t) for i, t in enumerate(operator.inputs)]
    made = Operator(operator.code, own, outputs, operator.options)
    draft = Draft([made], inputs, {f"y{i}": t for i, t in enumerate(outputs)})
    interpreter = loaded(file_bytes(draft, "alone", {}), reference=reference)
    return interpreter.get_signature_runner(SIGNATURE_KEY), [int(name[1:]) for name in inputs]
