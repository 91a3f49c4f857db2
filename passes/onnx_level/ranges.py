"""The range of every activation on calibration data, one sample at a time: nothing but the ranges is held.

onnxruntime's own calibrators keep the activations of all samples, or histograms that grow with the largest value
(onnxruntime issue 21979: 200 GB for a few thousand images). Here minima and maxima are taken inside the graph, and a
histogram has a fixed number of bins over a range that is known from a first walk over the data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from passes.dataset import Array, Dataset
from passes.onnxruntime import Session
from targets.errors import InvalidInput

if TYPE_CHECKING:
    import onnx

__all__ = ["Method", "Ranges", "activations", "observe"]

Method = Literal["minmax", "percentile", "entropy", "mse", "best"]
Ranges = Mapping[str, tuple[float, float]]
Progress = Callable[[str, float], None]
_Way = Callable[[Array, tuple[float, float]], tuple[float, float]]

_BINS = 2048
_LEVELS = 128  # what the entropy method compares a histogram with
_STRIDE = 8  # bins between the ranges that it tries: 0.8 percent of the widest
_POINTS = 2  # within a bin, at which an error is taken: a narrow range has steps of about a bin
_SHARES = np.linspace(0.2, 1.0, 33)  # of the widest range, that the method of least squares tries
_NEVER = 1e-9  # the probability that it gives to a value that the levels cannot hold
_WALK_BYTES = 128 * 2**20
"""Activations fetched at once for histograms; a network that has more takes several walks over the data."""


def activations(model: onnx.ModelProto, operators: Collection[str] | None = None) -> list[str]:
    """Float tensors that an operator of these types (of any, where None) reads or writes, weights apart."""
    from onnx import TensorProto

    weights = {tensor.name for tensor in model.graph.initializer}
    floats = {
        value.name
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    touched = {
        name: None
        for node in model.graph.node
        if operators is None or node.op_type in operators
        for name in (*node.input, *node.output)
    }
    return [name for name in touched if name in floats - weights]


def observe(
    model: onnx.ModelProto,
    data: Dataset,
    tensors: Sequence[str],
    method: Method,
    percentile: float,
    progress: Progress,
    *,
    symmetric: bool = False,
) -> Ranges:
    """The range of each of `tensors` over `data`.

    Args:
        model: The float graph; not changed.
        method: "minmax"; "percentile" cuts (100 - percentile) / 2 percent of the values off at either side;
            "entropy" takes the symmetric range whose 8-bit histogram diverges least from the full one; "mse" the
            range whose 8-bit rounding and clipping has the least squared error; "best" for each tensor that of the
            other four whose error is least.
        percentile: In percent, for that method and "best".
        symmetric: The error of "mse" and "best" is that of a grid with zero in its middle.

    Raises:
        InvalidInput: a tensor is not finite on some sample, or there are no samples.

    Source: Migacz 2017, 8-bit inference with TensorRT (entropy); Nagel et al. 2021, arXiv:2106.08295 (mse).
    """
    full = _extremes(model, data, tensors, progress)
    if method == "minmax":
        return full
    ways: Mapping[str, _Way] = {
        "percentile": lambda counts, widest: _percentile(counts, widest, percentile),
        "entropy": _entropy,
        "mse": lambda counts, widest: _least_squares(counts, widest, symmetric),
        "best": lambda counts, widest: _best(counts, widest, percentile, symmetric),
    }
    return {name: ways[method](counts, full[name]) for name, counts in _histograms(model, data, full, progress).items()}


# ---- minima and maxima, inside the graph


def _extremes(model: onnx.ModelProto, data: Dataset, tensors: Sequence[str], progress: Progress) -> Ranges:
    from onnx import TensorProto, helper

    watched = type(model)()
    watched.CopyFrom(model)
    outputs = []
    for reduce in ("ReduceMin", "ReduceMax", "ReduceSum"):  # minima and maxima pass over a NaN, sums do not
        names = [f"{reduce}:{tensor}" for tensor in tensors]
        nodes = [
            helper.make_node(reduce, [t], [name], name=name, keepdims=0) for t, name in zip(tensors, names, strict=True)
        ]
        watched.graph.node.extend(nodes)
        outputs += names
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, ()) for name in outputs)
    session = Session(watched.SerializeToString())
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    for position, sample in enumerate(_reported(data, "calibrating", progress)):
        answer = session(sample)
        least, most, total = np.array([answer[name] for name in outputs], np.float64).reshape(3, -1)
        finite = np.isfinite(least) & np.isfinite(most) & ~np.isnan(total)
        if not finite.all():
            worst = tensors[int(np.argmin(finite))]
            raise InvalidInput(
                f"calibration sample {position} makes tensor {worst!r} infinite or not a number",
                hint="remove that sample, or correct the model; `toolkit inspect` lists its operators",
            )
        low, high = np.minimum(low, least), np.maximum(high, most)
    if not np.isfinite(low).all():
        raise InvalidInput("the calibration data has no samples", hint="give at least one with --data")
    return {name: (float(a), float(b)) for name, a, b in zip(tensors, low, high, strict=True)}


def _reported(data: Dataset, doing: str, progress: Progress) -> Iterator[Mapping[str, Array]]:
    for done, sample in enumerate(data, start=1):
        yield sample
        progress(doing, done / max(len(data), 1))


# ---- histograms of a fixed size


def _histograms(model: onnx.ModelProto, data: Dataset, full: Ranges, progress: Progress) -> dict[str, Array]:
    """Counts in `_BINS` bins over [-m, m], where m is the largest magnitude of the tensor."""
    found: dict[str, Array] = {}
    for group in _groups(model, list(full)):
        found.update(_count(model, data, {name: full[name] for name in group}, progress))
    return found


def _groups(model: onnx.ModelProto, names: Sequence[str]) -> Iterator[list[str]]:
    """Tensors that fit the memory of one walk together; one whose size is not known goes alone."""
    sizes = {value.name: _bytes(value) for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    group: list[str] = []
    room = _WALK_BYTES
    for name in names:
        size = sizes.get(name, 0) or _WALK_BYTES
        if group and size > room:
            yield group
            group, room = [], _WALK_BYTES
        group.append(name)
        room -= size
    if group:
        yield group


def _bytes(value: onnx.ValueInfoProto) -> int:
    """Of a float32 tensor; 0 where a dimension is not known."""
    return 4 * prod(int(dim.dim_value) for dim in value.type.tensor_type.shape.dim)


def _fetching(model: onnx.ModelProto, names: Sequence[str]) -> Session:
    from onnx import TensorProto, helper

    watched = type(model)()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return Session(watched.SerializeToString())


def _count(model: onnx.ModelProto, data: Dataset, full: Ranges, progress: Progress) -> dict[str, Array]:
    session = _fetching(model, list(full))
    counts = {name: np.zeros(_BINS, np.int64) for name in full}
    for sample in _reported(data, "counting values", progress):
        for name, value in session(sample).items():
            reach = _reach(full[name])
            if reach > 0:
                place = (value.reshape(-1) * np.float32(_BINS / 2 / reach) + np.float32(_BINS / 2)).astype(np.int32)
                counts[name] += np.bincount(np.clip(place, 0, _BINS - 1), minlength=_BINS)
    return counts


def _reach(full: tuple[float, float]) -> float:
    return max(abs(full[0]), abs(full[1]))


def _percentile(counts: Array, full: tuple[float, float], percentile: float) -> tuple[float, float]:
    total, reach = counts.sum(), _reach(full)
    if not total:
        return full
    share = np.cumsum(counts) / total
    cut = (100 - percentile) / 200
    edges = np.linspace(-reach, reach, _BINS + 1)
    low, high = edges[np.searchsorted(share, cut, side="right")], edges[np.searchsorted(share, 1 - cut) + 1]
    return max(full[0], float(low)), min(full[1], float(high))


def _best(counts: Array, full: tuple[float, float], percentile: float, symmetric: bool) -> tuple[float, float]:
    """The first of equals, from the widest on."""
    found = full, _percentile(counts, full, percentile), _entropy(counts, full), _least_squares(counts, full, symmetric)
    return min(found, key=lambda bounds: _squared_error(counts, _reach(full), bounds, symmetric))


def _least_squares(counts: Array, full: tuple[float, float], symmetric: bool) -> tuple[float, float]:
    """Both sides are narrowed by one share, then each by its own, where that lowers the error."""
    best = full
    two_sided = full[0] < 0 < full[1] and not symmetric
    for low_moves, high_moves in ((True, True), (True, False), (False, True)) if two_sided else ((True, True),):
        tried = [(best[0] * (s if low_moves else 1), best[1] * (s if high_moves else 1)) for s in _SHARES[::-1]]
        best = min(tried, key=lambda bounds: _squared_error(counts, _reach(full), bounds, symmetric))
    return max(full[0], best[0]), min(full[1], best[1])  # a range that leaves zero out is widened by its quantizer


def _squared_error(counts: Array, reach: float, bounds: tuple[float, float], symmetric: bool) -> float:
    """Sum over the values counted of what rounding to 256 levels within `bounds`, and zero, takes from each, squared.

    Zeros are exact in any range: their bin counts as the one beside it.
    """
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    step = (high - low) / 255
    if step == 0:
        return 0.0 if reach == 0 else float("inf")
    counts = counts.copy()
    counts[_BINS // 2] = counts[_BINS // 2 + 1]
    seen = np.flatnonzero(counts)
    width = 2 * reach / _BINS
    inside = (np.arange(_POINTS) + 0.5) / _POINTS
    values = (seen[:, None] + inside - _BINS / 2) * width
    zero = np.rint(-low / step)
    stored = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    return float((np.square(values - stored).mean(1) * counts[seen]).sum())


def _entropy(counts: Array, full: tuple[float, float]) -> tuple[float, float]:
    """The symmetric range that loses least information when it is cut into 128 levels.

    Zeros are exact in any range, and after a Relu they are half of all values: their bin counts as the one beside it.
    """
    reach = _reach(full)
    counts = counts.copy()
    counts[_BINS // 2] = counts[_BINS // 2 + 1]
    if not counts.sum():
        return full
    half = np.arange(_LEVELS // 2, _BINS // 2 + 1, _STRIDE)
    best = half[int(np.argmin([_divergence(counts, int(h)) for h in half]))]
    bound = reach * 2 * float(best) / _BINS
    return max(full[0], -bound), min(full[1], bound)


def _divergence(counts: Array, half: int) -> float:
    """Kullback-Leibler divergence of the middle 2 * `half` bins, outliers moved to their ends, from 128 levels."""
    middle = _BINS // 2
    kept = counts[middle - half : middle + half].astype(np.float64)
    clipped = kept.copy()
    clipped[0] += counts[: middle - half].sum()
    clipped[-1] += counts[middle + half :].sum()
    level = np.arange(2 * half) * _LEVELS // (2 * half)
    filled = kept > 0
    mass = np.bincount(level, kept, _LEVELS) / np.maximum(np.bincount(level, filled, _LEVELS), 1)
    quantized = np.where(filled, mass[level], 0.0)
    p, q = clipped / clipped.sum(), quantized / max(quantized.sum(), 1.0)
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], _NEVER))).sum())
