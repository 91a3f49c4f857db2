"""Chains at several lengths: tokens are pooled, and what a short chain finds is handed back to all of them.

A group of `step` tokens is pooled to its mean; the last one may be short, so any length will do. Causal: a token is
told of the last group that was whole before or with it, and of nothing where there is none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.models.blueprints.sizes import length_of

__all__ = ["down", "up"]


def down(x: Tensor, step: int) -> Tensor:
    """(B, N, features) to (B, ⌈N / step⌉, features): the mean of each group of tokens."""
    n = length_of(x)
    groups = -(-n // step)
    sums = pad(x, (0, 0, 0, groups * step - n)).reshape(x.shape[0], groups, step, x.shape[2]).sum(2)
    ends = torch.arange(1, groups + 1, device=x.device) * step
    return sums / (step - (ends - n).clamp(min=0)).to(x.dtype)[:, None]


def up(y: Tensor, n: int, step: int, *, causal: bool) -> Tensor:
    """(B, ⌈n / step⌉, features) to (B, n, features)."""
    if not causal:
        return y.repeat_interleave(step, 1)[:, :n]
    late = pad(y, (0, 0, 1, 0)).repeat_interleave(step, 1)  # a group is known from its last token on
    return late[:, 1 : n + 1]
