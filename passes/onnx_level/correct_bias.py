"""Take the mean error of each layer of a quantized graph out of its bias."""

from __future__ import annotations

from dataclasses import dataclass

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.layer_matrices import channel_means
from passes.onnx_level.layer_walk import LayerWalk
from passes.onnx_level.quantized_layers import quantized_layers, subtract
from passes.onnx_level.repairing import held_samples, mean_shift, need_float_twin, need_nearer
from passes.program import Program

__all__ = ["CorrectBias"]


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Rounded weights and clipped activations shift the mean of every output channel; the int32 biases shift it back.

    From the first layer to the last, each measured behind those that were corrected before it, and before its
    activation function: b -= E[y_quantized - y_float] over samples and positions, as far as the samples agree.

    Args:
        samples: Calibration samples to read at most.

    Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D (empirical).
    """

    samples: int = 16
    kind = Kind.APPROXIMATE
    needs = frozenset({"int8"})
    prepares = True  # the operators stay: there is no time to hold against it

    def requires(self, program: Program, ctx: Context) -> None:
        need_float_twin(program, ctx, self.samples)

    def apply(self, program: Program, ctx: Context) -> Program:
        import onnx
        import onnx_ir

        assert program.floating is not None
        model, floating = (onnx.load_model_from_string(p.onnx_bytes) for p in (program, program.floating))
        layers = [layer for layer in quantized_layers(model, floating) if layer.bias]
        if not layers:
            raise PassFailed("no layer has a bias in int32", hint="nothing to do")
        samples = held_samples(program, ctx, self.samples)
        walk, truth = LayerWalk(model, samples), LayerWalk(floating, samples)
        for done, layer in enumerate(layers, start=1):
            pairs = zip(walk.preview(layer.output), truth.values(layer.float_output), strict=True)
            shift = mean_shift([channel_means(layer.node, y) - channel_means(layer.node, want) for y, want in pairs])
            subtract(model, layer.bias, shift / layer.bias_scale)
            ctx.progress("correcting biases", done / len(layers))
        return program.with_model(onnx_ir.from_proto(model))

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        need_nearer(before, after, ctx)
