"""A .tflite as a device runs it, under the signature of the network that it is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from passes.dataset import Array, Sample
from passes.program import Program
from targets.stack import Stack
from toolkit.backends.litert.lowering import Edges, lowered
from toolkit.backends.litert.operators import OPERATORS as WRITERS
from toolkit.backends.litert.reading import readable
from toolkit.verify.integers import lite_elementwise, lite_functions, lite_moves, lite_products
from toolkit.verify.integers.calls import Run
from toolkit.verify.integers.lite import LiteOperator, Network
from toolkit.verify.integers.numerics import Numerics

__all__ = ["OPERATORS", "LiteDevice"]

OPERATORS: Mapping[str, LiteOperator] = {
    **lite_elementwise.OPERATORS, **lite_functions.OPERATORS, **lite_moves.OPERATORS, **lite_products.OPERATORS,
}  # fmt: skip
"""Every operator with arithmetic of its own here, by the name that the file's schema gives it."""


class LiteDevice:
    """A device that runs what is written as a .tflite.

    Args:
        program: The network at the ONNX level.
        stack: What it is written for.
        edges: How the file meets its caller.
        numerics: One whose runtime is LiteRT.

    Raises:
        InvalidInput: an operator has no form in a .tflite.
    """

    def __init__(self, program: Program, stack: Stack, edges: Edges, numerics: Numerics) -> None:
        lowering = lowered(readable(program, stack).graph, WRITERS, edges)
        self._inputs, self._outputs = lowering.draft.inputs, lowering.draft.outputs
        self._orders = lowering.orders
        self._types = {spec.name: spec.dtype for spec in program.signature.outputs}
        self._network = Network(lowering.draft, OPERATORS, numerics)

    def __call__(self, inputs: Sample) -> Run:
        """Every output and integer; where the batch varies, its samples are taken one after the other."""
        count = len(next(iter(inputs.values())))
        by_sample = all(t.shape[:1] == (1,) for t in self._inputs.values()) and count > 1
        if not by_sample:
            return self._one(inputs)
        return _joined([self._one({name: v[i : i + 1] for name, v in inputs.items()}) for i in range(count)])

    def _one(self, inputs: Sample) -> Run:
        run = self._network({name: self.given(name, inputs[name]) for name in self._inputs})
        run.outputs.update({name: self.taken(name, run.outputs[name]) for name in self._outputs})
        return run

    def given(self, name: str, array: Array) -> Array:
        """An input of the network as the file takes it: its type, and its axes in the file's order."""
        tensor = self._inputs[name]
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        q = tensor.quantization
        if tensor.dtype == "int8" and array.dtype == np.float32 and q is not None:
            array = np.clip(np.rint(array / np.float32(q.step)) + q.zero_point[0], -128, 127).astype(np.int8)
        return np.ascontiguousarray(array.transpose(self._orders[name]))

    def taken(self, name: str, array: Array) -> Array:
        """An output of the network, of what the file gives."""
        array = array.transpose(np.argsort(self._orders[name]))
        q = self._outputs[name].quantization
        if array.dtype == np.int8 and self._types[name].startswith("float") and q is not None:
            array = q.real(array)
        return np.ascontiguousarray(array).astype(self._types[name], copy=False)


def _joined(runs: Sequence[Run]) -> Run:
    first = runs[0]
    return Run(
        {name: np.concatenate([run.outputs[name] for run in runs]) for name in first.outputs},
        {name: np.concatenate([run.integers[name] for run in runs]) for name in first.integers},
        first.elsewhere,
    )
