"""What the passes share that repair a quantized graph: what they need, and the promise that it comes nearer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import prod

import numpy as np

from passes.compare import compare
from passes.context import Context
from passes.contract import PassFailed
from passes.dataset import Array, Sample
from passes.program import Program

__all__ = ["held_samples", "mean_shift", "need_float_twin", "need_nearer"]

_READ = 128
_HELD_BYTES = 384 * 2**20
"""Float activations that may be held at once, where the network is widest."""


def need_float_twin(program: Program, ctx: Context, samples: int) -> None:
    """Refuse what cannot be repaired.

    Raises:
        PassFailed: there is no calibration data, or the graph was not quantized on this road.
    """
    if samples < 1:
        raise PassFailed(f"samples is {samples}", hint="read at least one sample")
    if program.floating is None:
        raise PassFailed(
            "there is no float graph beside this one to compare layers with", hint="run QuantizeInt8 before, on one"
        )
    first = next(iter(ctx.data), None) if ctx.data is not None else None
    if first is None:
        raise PassFailed("no calibration data was given", hint="give samples with --data")
    program.signature.check_inputs(first)


def held_samples(program: Program, ctx: Context, most: int) -> Sequence[Sample]:
    """Samples from all over the first 128: `most`, or as many as can be held where tensors are largest."""
    assert ctx.data is not None
    assert program.floating is not None
    shapes = [value.shape for node in program.floating.static_model.graph for value in node.outputs]
    widest = max(4 * prod(d for d in shape if isinstance(d, int)) for shape in shapes if shape is not None)
    count = max(1, min(most, len(ctx.data), _HELD_BYTES // (2 * widest)))  # what a layer reads, and what it writes
    step = max(1, min(len(ctx.data), _READ) // count)
    return list(islice(ctx.data, 0, count * step, step))


def mean_shift(differences: Sequence[Array]) -> Array:
    """The mean of (channels,) differences, one a sample, drawn towards 0 by what it owes to the choice of samples.

    A mean m with standard error e becomes m max(0, 1 - e^2 / m^2). On EfficientNet-Lite0 with 16 samples that is worth
    2 dB on photographs which were not among them. Of a single sample there is no error to be known.

    Source: James and Stein 1961, applied channel by channel (positive part).
    """
    each = np.stack(differences)
    mean = each.mean(axis=0)
    if len(each) < 2:
        return np.asarray(mean)
    error = each.var(axis=0, ddof=1) / len(each)
    square = np.square(mean)
    return np.asarray(mean * np.where(square > error, 1 - error / np.where(square > 0, square, 1.0), 0.0))


def need_nearer(before: Program, after: Program, ctx: Context) -> None:
    """A repair is kept only where the worst output came nearer to the reference.

    Raises:
        PassFailed: it did not.
    """
    data = ctx.proof_data(before)
    was, now = (min(d.sqnr_db for d in compare(before.truth, program, data)) for program in (before, after))
    if not now > was:
        raise PassFailed(
            f"the answers came no nearer to those of the reference: {was:.2f} dB SQNR before, {now:.2f} dB after",
            hint="nothing to do: the graph stays as it was",
        )
