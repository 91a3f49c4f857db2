"""Multi-head attention from matrices: what a component does alone, a pool in one call, and a frozen organism for good.

One home, so that the three give the same bits for the same matrices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.attention import AttentionStats
from toolkit.organism.errors import ShapeError
from toolkit.organism.protocols import Kernel

__all__ = ["Matrices", "Sight", "check_inputs", "combined_heads"]


class Sight(NamedTuple):
    """Which keys are attended to.

    Args:
        causal: Queries attend to their own position and before; the last query stands at the last key.
        key_padding: (B, N) bool, True where nobody attends.
        mask: (M, N) or (B, H, M, N); bool, True where not attended, or numbers that are added to the scores. Then the
            scores are stored as a matrix.
    """

    causal: bool = False
    key_padding: Tensor | None = None
    mask: Tensor | None = None


class Matrices(NamedTuple):
    """Heads of one width."""

    query_key_value: Tensor
    """(3 * heads * d, D): one below the other."""
    out: Tensor
    """(D, heads * d)."""
    biases: Tensor | None
    """(3 * heads * d,) of query, key and value, or None."""
    head_dim: int


def combined_heads(
    latent: Tensor, stimulus: Tensor, w: Matrices, kernel: Kernel, sight: Sight, *, return_stats: bool = False
) -> tuple[Tensor, AttentionStats | None]:
    """(B, M, heads * d) of `latent` (B, M, D) attending to `stimulus` (B, N, D), before the output matrix."""
    q, k, v = _projected(latent, stimulus, w)
    q, k, v = (x.reshape(*x.shape[:2], -1, w.head_dim).transpose(1, 2) for x in (q, k, v))
    if sight.mask is not None:
        out, stats = _by_matrix(q, k, v, sight), None
    else:
        out, _, stats = kernel.attention(
            q, k, v, causal=sight.causal, key_padding=sight.key_padding, return_stats=return_stats
        )
    return out.transpose(1, 2).flatten(2), stats


def _projected(latent: Tensor, stimulus: Tensor, w: Matrices) -> tuple[Tensor, Tensor, Tensor]:
    """One product where queries and keys come of the same input."""
    if latent is stimulus:
        q, k, v = F.linear(latent, w.query_key_value, w.biases).chunk(3, 2)
        return q, k, v
    width = w.out.shape[1]
    of_query, of_rest = (None, None) if w.biases is None else (w.biases[:width], w.biases[width:])
    k, v = F.linear(stimulus, w.query_key_value[width:], of_rest).chunk(2, 2)
    return F.linear(latent, w.query_key_value[:width], of_query), k, v


def _by_matrix(q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> Tensor:
    """softmax of scores that any mask was added to; 0 for a query that attends to nothing."""
    m, n = q.shape[2], k.shape[2]
    mask = sight.mask
    if mask is None:
        raise ShapeError("no mask to attend by", hint="leave attention without a mask to the kernel")
    hidden = torch.zeros(m, n, dtype=torch.bool, device=q.device)
    if sight.causal:
        hidden = torch.ones_like(hidden).triu(1 + n - m)
    if sight.key_padding is not None:
        hidden = hidden | sight.key_padding[:, None, None, :]
    if mask.dtype == torch.bool:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=~(hidden | mask))
    added = mask.to(q.dtype).masked_fill(hidden, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added)


def check_inputs(latent: Tensor, stimulus: Tensor, d_model: int) -> None:
    """Nothing, where both are (B, length, d_model) of one batch.

    Raises:
        ShapeError: they are not.
    """
    for name, x in (("latent", latent), ("stimulus", stimulus)):
        if x.ndim != 3 or x.shape[2] != d_model:
            raise ShapeError(
                f"{name} is {tuple(x.shape)} and must be (B, length, {d_model})", hint="put the batch first"
            )
    if latent.shape[0] != stimulus.shape[0]:
        raise ShapeError(
            f"a latent of batch {latent.shape[0]} beside a stimulus of {stimulus.shape[0]}", hint="give equal batches"
        )
