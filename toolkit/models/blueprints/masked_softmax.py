"""Softmax over the positions that count.

    w = keep · exp(s − max s) / Σ keep · exp(s − max s),  s = keep · (score − min score)

The mask multiplies: scores of what is kept away become the lowest, not a large negative number, which would leave 8
bits no steps for the others once the network is quantized. No score that counts is lower, so the greatest s is one that
counts: its power is 1, and the powers do not vanish together, however low all scores are.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["masked_softmax"]


def masked_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Weights over the last axis, of the type of `scores`, computed in float32.

    Args:
        scores: (..., n).
        keep: Broadcasts with `scores`; 1 where a position counts, 0 where it does not; some position counts.

    Returns:
        (..., n): they add up to 1, and are exactly 0 where `keep` is.
    """
    keep = keep.float() if keep.dtype in (torch.bool, torch.float16, torch.bfloat16) else keep
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    above = (wide - wide.amin(-1, keepdim=True)) * keep
    powers = torch.exp(above - above.amax(-1, keepdim=True)) * keep
    return (powers / powers.sum(-1, keepdim=True)).to(scores.dtype)
