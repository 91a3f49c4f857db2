"""Move outlier channels of activations into the weights that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.dataset import Array, Dataset
from passes.onnx_level.channel_seams import Seam, balance, seams
from passes.onnx_level.matching import matchable
from passes.onnx_level.quantizing import refuse_quantized
from passes.onnxruntime import Session
from passes.program import Program
from targets.errors import InvalidInput

if TYPE_CHECKING:
    import onnx

__all__ = ["SmoothActivations"]


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """SmoothQuant: what makes channel c is divided by s[c] = seen[c]^strength / read[c]^(1 - strength).

    `seen` is the largest magnitude of the channel on calibration data, `read` that of the weights which read it. A
    normalisation takes the factors up in its scale and bias, a layer in its weights.

    Args:
        strength: How much of the difference moves into the weights, between 0 and 1.
        convolutions: Between two convolutions as well.
        samples: Calibration samples to read at most.

    Source: Xiao et al. 2023, arXiv:2211.10438.
    """

    strength: float = 0.5
    convolutions: bool = False
    samples: int = 32
    kind = Kind.EXACT
    needs = frozenset({"constants_folded", "batch_norm_folded"})
    prepares = True  # the operators stay: there is no time to hold against it

    def requires(self, program: Program, ctx: Context) -> None:
        if not 0 <= self.strength <= 1:
            raise PassFailed(f"strength is {self.strength}", hint="give a share from 0 to 1, such as 0.5")
        if self.samples < 1:
            raise PassFailed(f"samples is {self.samples}", hint="read at least one sample")
        refuse_quantized(program)
        first = next(iter(ctx.data), None) if ctx.data is not None else None
        if first is None:
            raise PassFailed("no calibration data was given", hint="give samples with --data")
        program.signature.check_inputs(first)

    def apply(self, program: Program, ctx: Context) -> Program:
        assert ctx.data is not None
        model = matchable(program)
        found = [seam for seam in seams(model.graph) if self.convolutions or seam.kind != "convolution"]
        if not found:
            raise PassFailed("no normalisation or layer is read by matrix products alone", hint="nothing to do")
        seen = _seen(program.with_model(model), found, ctx.data.take(self.samples))
        return program.with_model(model) if balance(model.graph, found, seen, self.strength) else program


def _seen(program: Program, found: Sequence[Seam], data: Dataset) -> dict[Seam, Array]:
    """The largest magnitude of each channel, (channels,) float64."""
    session = Session(_watched(program, found).SerializeToString())
    largest = {seam: np.zeros(seam.channels) for seam in found}
    for position, sample in enumerate(data):
        answer = session(sample)
        for i, seam in enumerate(found):
            now = answer[_name(i)].astype(np.float64).reshape(-1)
            if not np.isfinite(now).all():
                raise InvalidInput(
                    f"calibration sample {position} makes tensor {seam.value.name!r} infinite or not a number",
                    hint="remove that sample, or correct the model; `toolkit inspect` lists its operators",
                )
            largest[seam] = np.maximum(largest[seam], now)
    return largest


def _watched(program: Program, found: Sequence[Seam]) -> onnx.ModelProto:
    """The graph with the largest magnitudes of channels as its outputs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_model_from_string(program.onnx_bytes)
    del model.graph.output[:]
    for i, seam in enumerate(found):
        shape = seam.value.shape
        assert shape is not None
        channel = 1 if seam.kind == "convolution" else len(shape) - 1
        axes = np.array([axis for axis in range(len(shape)) if axis != channel], np.int64)
        model.graph.node.append(helper.make_node("Abs", [str(seam.value.name)], [f"{_name(i)}:size"]))
        if program.opset >= 18:
            model.graph.initializer.append(numpy_helper.from_array(axes, f"{_name(i)}:axes"))
            reduced = helper.make_node("ReduceMax", [f"{_name(i)}:size", f"{_name(i)}:axes"], [_name(i)], keepdims=0)
        else:
            reduced = helper.make_node("ReduceMax", [f"{_name(i)}:size"], [_name(i)], axes=axes.tolist(), keepdims=0)
        model.graph.node.append(reduced)
        model.graph.output.append(helper.make_tensor_value_info(_name(i), TensorProto.FLOAT, None))
    return model


def _name(position: int) -> str:
    return f"largest:{position}"
