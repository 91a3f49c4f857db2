"""What the layers' activations are like: how many directions they use, and how a layer bends a line between samples."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.analyzing.analysis import LayerReport, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.geometry.analysis.quantization_stability import RangeUse
    from toolkit.geometry.analysis.tapping import Graph

__all__ = ["add_turning", "layer_reports", "rows_of_layer"]

_PLACES = 32  # of an image or a sequence, those whose vectors are kept from each sample
_PATH = 9  # points on the line between two samples


def layer_reports(graph: Graph, data: Dataset, progress: Progress) -> list[LayerReport]:
    """Dimension of each layer, and how it uses a range of its own where the graph is quantized."""
    import torch

    from toolkit.geometry.analysis.effective_dimension import effective_dimension

    layers, ranges = graph.layers(), graph.ranges()
    rows: dict[str, list[Tensor]] = {layer.tensor: [] for layer in layers}
    kinds = {layer.tensor: layer.op_type for layer in layers}
    taps = graph.tapped([*rows, *ranges])
    for done, sample in enumerate(data, start=1):
        for group in taps.run(sample):
            for name, value in group.items():
                _finite(name, value, done - 1)
                if name in rows:
                    rows[name].append(rows_of_layer(value, kinds[name]))
                if name in ranges:
                    ranges[name].add(torch.from_numpy(value))
        progress("layers", done / len(data))
    found = []
    for layer in layers:
        vectors = torch.cat(rows[layer.tensor])
        found.append(
            LayerReport(
                name=layer.name,
                operator=layer.op_type,
                tensor=layer.tensor,
                place=graph.place(layer.tensor),
                width=vectors.shape[1],
                dimension=effective_dimension(vectors),
                range_use=ranges.pop(layer.tensor, None),
            )
        )
    return found + [_stored(graph, name, use) for name, use in ranges.items()]


def _stored(graph: Graph, tensor: str, use: RangeUse) -> LayerReport:
    """An activation that is stored in integers and is none of a layer with weights: a sum, or an input."""
    maker = graph.makers.get(tensor)
    shape = graph.shape(tensor)
    return LayerReport(
        name=(maker.name if maker else "") or tensor,
        operator=maker.op_type if maker else "input",
        tensor=tensor,
        place=graph.place(tensor),
        width=shape[1] if len(shape) > 1 else 1,
        dimension=nan,
        range_use=use,
    )


def rows_of_layer(value: Array, operator: str) -> Tensor:
    """Feature vectors of one sample: channels stand second in images, last in products and sequences."""
    import torch

    from toolkit.geometry.analysis.effective_dimension import rows_of

    wide = torch.from_numpy(np.ascontiguousarray(value[None] if value.ndim == 1 else value))
    images = "Conv" in operator or (wide.ndim > 3 and operator not in ("MatMul", "Gemm"))
    return rows_of(wide, _PLACES, channel=1 if images else -1)


def _finite(name: str, value: Array, sample: int) -> None:
    if not np.isfinite(value).all():
        raise InvalidInput(
            f"sample {sample} makes tensor {name!r} infinite or not a number",
            hint="remove that sample, or correct the model; `toolkit inspect` lists its operators",
        )


def add_turning(layers: Sequence[LayerReport], graph: Graph, data: Dataset, progress: Progress) -> None:
    """How far each layer bends the line between the first two samples; only where inputs can be mixed."""
    import torch

    from toolkit.geometry.analysis.curvature import total_turning

    first, second = list(data.take(2))
    if any(np.asarray(a).dtype.kind != "f" or np.shape(a) != np.shape(second[name]) for name, a in first.items()):
        return
    layers = [layer for layer in layers if isfinite(layer.dimension)]
    path: dict[str, list[Tensor]] = {layer.tensor: [] for layer in layers}
    kinds = {layer.tensor: layer.operator for layer in layers}
    taps = graph.tapped(list(path))
    for step in range(_PATH):
        share = np.float64(step / (_PATH - 1))
        mixed = {
            name: ((1 - share) * start + share * second[name]).astype(np.asarray(start).dtype)
            for name, start in first.items()
        }
        for group in taps.run(mixed):
            for name, value in group.items():
                path[name].append(rows_of_layer(value, kinds[name]).flatten())
        progress("curvature", (step + 1) / _PATH)
    for layer in layers:
        layer.turning = float(total_turning(torch.stack(path[layer.tensor])))
