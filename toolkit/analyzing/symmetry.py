"""Whether a network treats every place of an image alike: each layer by itself, and the answer as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.program import Program
from toolkit.analyzing.analysis import Analysis, LayerReport, Progress

if TYPE_CHECKING:
    from toolkit.geometry.analysis.image_layers import ImageLayer
    from toolkit.geometry.analysis.tapping import Graph

__all__ = ["add_symmetry", "same_answers"]

_IMAGES_BYTES = 2**30  # of images that layers read, of one sample
_SHIFTS = (1, 2, 4)  # places by which whole images are moved


def add_symmetry(result: Analysis, graph: Graph, sample: Sample, progress: Progress) -> None:
    """Whether each layer treats every place of its images alike."""
    from toolkit.geometry.analysis.findings import LIMITS
    from toolkit.geometry.analysis.image_layers import defects, image_layers

    found = list(image_layers(graph))
    if not found:
        result.notes.append("no layer works on images large enough to tell whether it treats places alike")
        return
    by_name = {layer.name: layer for layer in result.layers}
    asked = _within_memory(graph, found)
    if len(asked) < len(found):
        result.notes.append(f"only the first {len(asked)} of {len(found)} image layers were moved: the rest would take "
                            f"more than {_IMAGES_BYTES >> 20} MiB to hold")  # fmt: skip
    found = asked
    tensors = graph.tapped([name for layer in found for name in (*layer.sources, *layer.held)]).all_of(sample)
    for done, layer in enumerate(found, start=1):
        by_channel = defects(graph, layer, tensors)
        channel = int(by_channel.argmax())
        report = by_name.get(layer.name)
        if report is None:
            report = LayerReport(name=layer.name, operator=graph.makers[layer.tensor].op_type, tensor=layer.tensor,
                                 place=graph.place(layer.tensor), width=len(by_channel), dimension=nan)  # fmt: skip
            result.layers.append(report)
        report.defect, report.channel = float(by_channel[channel]), channel
        report.others = max(int((by_channel > LIMITS["symmetry"].value).sum()) - 1, 0)
        progress("symmetry", done / len(found))


def _within_memory(graph: Graph, layers: Sequence[ImageLayer]) -> list[ImageLayer]:
    """The first of the layers, whose inputs memory holds together."""
    held: dict[str, int] = {}
    found = []
    for layer in layers:
        held |= {name: graph.held_bytes(name) for name in (*layer.sources, *layer.held)}
        if sum(held.values()) > _IMAGES_BYTES:
            break
        found.append(layer)
    return found


def same_answers(program: Program, data: Dataset) -> dict[int, float]:
    """By shift, the share of samples whose largest output stays where the image is moved."""
    outputs, wanted = program.signature.outputs, program.signature.inputs
    if len(wanted) != 1 or len(wanted[0].shape) != 4 or len(outputs[0].shape) != 2:
        return {}
    name, answer = wanted[0].name, outputs[0].name
    same: dict[int, list[bool]] = {by: [] for by in _SHIFTS}
    for sample in data:
        image = np.asarray(sample[name])
        still = program.run(sample)[answer].argmax(-1)
        for by, found in same.items():
            if min(image.shape[2:]) > 2 * by:
                found += (program.run({name: _pushed(image, by)})[answer].argmax(-1) == still).tolist()
    return {by: sum(found) / len(found) for by, found in same.items() if found}


def _pushed(image: Array, by: int) -> Array:
    """[N, C, H, W] moved down and right, with the first row and column drawn out over the gap."""
    return np.pad(image, ((0, 0), (0, 0), (by, 0), (by, 0)), mode="edge")[:, :, :-by, :-by].copy()
