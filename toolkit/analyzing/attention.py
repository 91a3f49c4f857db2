"""What a network's attention heads do on real samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array, Dataset
from toolkit.analyzing.analysis import Analysis, Progress

if TYPE_CHECKING:
    from toolkit.geometry.analysis.tapping import Graph

__all__ = ["add_attention"]

_ATTENTION_BYTES = 256 * 2**20  # of one attention's weights over all samples


def add_attention(result: Analysis, graph: Graph, data: Dataset, progress: Progress) -> None:
    """What the heads of each attention do."""
    import torch

    from toolkit.geometry.analysis.attention_reports import head_reports

    attentions = graph.attentions()
    whole = sum(node.op_type in ("Attention", "MultiHeadAttention") for node in graph.model.graph.node)
    if whole:
        result.notes.append(
            f"{whole} attentions are single operators, whose weights cannot be read: export to opset 18"
        )
    for done, attention in enumerate(attentions, start=1):
        taps = graph.tapped([attention.scores, attention.weights])
        weights: list[Array] = []
        allowed: list[Array] = []
        for sample in data:
            tensors = taps.all_of(sample)
            if weights and (len(weights) + 1) * weights[0].nbytes > _ATTENTION_BYTES:
                break
            if weights and tensors[attention.weights].shape != weights[0].shape:
                continue  # sequences of another length
            weights.append(tensors[attention.weights])
            allowed.append(attention.allowed(tensors))
        stacked, seen = (torch.from_numpy(_in_heads(np.concatenate(parts))) for parts in (weights, allowed))
        if bool((seen.sum(-1) > 1).any()):
            result.heads[attention.name] = head_reports(stacked, seen)
        progress("attention", done / len(attentions))


def _in_heads(weights: Array) -> Array:
    """[S, h, N, M]; a tensor of rank 3 is one head."""
    return weights if weights.ndim == 4 else weights[:, None]
