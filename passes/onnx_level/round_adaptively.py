"""Round the weights of a quantized graph so that each layer's outputs stay, rather than each weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.dataset import Array
from passes.onnx_level.layer_matrices import channel_means, columns, from_rows, is_a_product, output_axis, rows
from passes.onnx_level.layer_walk import LayerWalk
from passes.onnx_level.quantized_layers import QuantizedLayer, constant, quantized_layers, store, subtract
from passes.onnx_level.repairing import held_samples, mean_shift, need_float_twin, need_nearer
from passes.program import Program

__all__ = ["RoundAdaptively", "rounded"]

_BLOCK = 64  # columns that are rounded before the error of all of them moves on to those behind


@dataclass(frozen=True)
class RoundAdaptively(Pass):
    """Weights in int8 that minimise |W x - Q x|^2 over what a layer reads in the quantized graph; scales stay.

    From the first layer to the last: one weight of each output after another is rounded, and the weights that are still
    to be rounded make up for its error. An output of which that does not lower the error keeps the nearest integers.
    Biases take up the mean of what is left, as in CorrectBias.

    Args:
        samples: Calibration samples to read at most.
        damping: Share of the mean of the diagonal that is added to it: how little the samples are trusted.

    Source: Frantar et al. 2022, arXiv:2210.17323, for the objective of Nagel et al. 2020, arXiv:2004.10568. It is
    deterministic and takes no training.
    """

    samples: int = 32
    damping: float = 0.3
    kind = Kind.APPROXIMATE
    needs = frozenset({"int8"})
    prepares = True  # the operators stay: there is no time to hold against it

    def requires(self, program: Program, ctx: Context) -> None:
        need_float_twin(program, ctx, self.samples)
        if not 0 < self.damping < float("inf"):
            raise PassFailed(f"damping is {self.damping}", hint="give a share above 0, such as 0.01")

    def apply(self, program: Program, ctx: Context) -> Program:
        import onnx
        import onnx_ir

        assert program.floating is not None
        model, floating = (onnx.load_model_from_string(p.onnx_bytes) for p in (program, program.floating))
        layers = [layer for layer in quantized_layers(model, floating) if _is_taken(layer)]
        if not layers:
            raise PassFailed("no layer has weights in int8 of its own", hint="nothing to do")
        samples = held_samples(program, ctx, self.samples)
        walk, truth = LayerWalk(model, samples), LayerWalk(floating, samples)
        for done, layer in enumerate(layers, start=1):
            moments = _moments(layer, walk, truth)
            integers, step = _integers(layer, moments, self.damping)
            weights = from_rows(layer.node, integers.astype(np.int8), layer.float_weights.shape)
            store(model, layer.weights, weights)
            if layer.bias:
                before = constant(model, layer.bias) * layer.bias_scale.astype(np.float64)
                made = [((integers * step) @ mean[:, :, None]).reshape(-1) + before for mean in moments.means]
                shift = mean_shift([y - want for y, want in zip(made, moments.outputs, strict=True)])
                subtract(model, layer.bias, shift / layer.bias_scale)
            ctx.progress("rounding weights", done / len(layers))
        return program.with_model(onnx_ir.from_proto(model))

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        need_nearer(before, after, ctx)


@dataclass(frozen=True, eq=False)
class _Moments:
    """Of the columns x that a layer multiplies: E[x x^T] (G, K, K). Of each sample: E[x] (G, K), and of the outputs of
    the float layer E[y] (channels,)."""

    square: Array
    means: list[Array]
    outputs: list[Array]


def _is_taken(layer: QuantizedLayer) -> bool:
    fits = layer.scale.size == 1 or layer.axis == output_axis(layer.node)
    return bool(layer.weights) and fits and is_a_product(layer.node, layer.float_weights)


def _moments(layer: QuantizedLayer, walk: LayerWalk, truth: LayerWalk) -> _Moments:
    groups, _, inputs = rows(layer.node, layer.float_weights).shape
    square = np.zeros((groups, inputs, inputs))
    means, outputs = [], []
    for x, y in zip(walk.values(layer.input), truth.values(layer.float_output), strict=True):
        found = columns(layer.node, x, layer.float_weights)
        square += (found @ found.transpose(0, 2, 1)) / found.shape[2]
        means.append(found.mean(axis=2, dtype=np.float64))
        outputs.append(channel_means(layer.node, y))
    return _Moments(square / len(means), means, outputs)


def _integers(layer: QuantizedLayer, moments: _Moments, damping: float) -> tuple[Array, Array]:
    """(G, R, K) weights as integers in float64, and the (G, R, 1) step between two of them."""
    wanted = rows(layer.node, layer.float_weights).astype(np.float64)
    groups, outputs, _ = wanted.shape
    step = np.broadcast_to(layer.scale.astype(np.float64), groups * outputs).reshape(groups, outputs, 1)
    matter = moments.square
    if layer.bias:  # which takes the mean up: what is left to lower is the error around it
        mean = np.mean(moments.means, axis=0)
        matter = matter - mean[:, :, None] * mean[:, None, :]
    return rounded(wanted, matter, step, damping), step


def rounded(wanted: Array, matter: Array, step: Array, damping: float) -> Array:
    """Integers q in [-128, 127] such that the rows of step * q - wanted are small where it matters.

    Args:
        wanted: (G, R, K) float64.
        matter: (G, K, K), symmetric and without negative eigenvalues: a row e costs e matter e^T.
        step: (G, R, 1), positive.
        damping: Share of the mean of the diagonal that is added to it.

    Returns:
        (G, R, K) in float64; of no row does it cost more than the nearest integers do.
    """
    nearest = np.clip(np.rint(wanted / step), -128, 127)
    diagonal = np.einsum("gkk->gk", matter)
    order = np.argsort(-diagonal.mean(axis=0), kind="stable")  # what matters most has most behind it to make up for it
    added = damping * diagonal.mean(axis=1)
    added = np.where(added > 0, added, 1.0)  # inputs that are always zero: nothing matters
    damped = matter[:, order][:, :, order] + added[:, None, None] * np.eye(len(order))
    spread = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    found = np.empty_like(wanted)
    found[:, :, order] = _in_order(wanted[:, :, order], spread, step[:, :, 0])
    better = _cost(found * step - wanted, matter) < _cost(nearest * step - wanted, matter)
    return np.asarray(np.where(better[:, :, None], found, nearest))


def _in_order(wanted: Array, spread: Array, step: Array) -> Array:
    """Column after column; `spread` (G, K, K) is upper triangular and says how an error moves to the columns behind."""
    left = wanted.copy()
    found = np.empty_like(left)
    for start in range(0, left.shape[2], _BLOCK):
        stop = min(start + _BLOCK, left.shape[2])
        errors = np.empty_like(left[:, :, start:stop])
        for k in range(start, stop):
            found[:, :, k] = np.clip(np.rint(left[:, :, k] / step), -128, 127)
            errors[:, :, k - start] = (left[:, :, k] - found[:, :, k] * step) / spread[:, None, k, k]
            left[:, :, k + 1 : stop] -= errors[:, :, k - start, None] * spread[:, None, k, k + 1 : stop]
        left[:, :, stop:] -= errors @ spread[:, start:stop, stop:]
    return found


def _cost(errors: Array, matter: Array) -> Array:
    """(G, R)."""
    return np.asarray(((errors @ matter) * errors).sum(axis=2))
