"""Participation: ‖W‖_F⁴ / ‖WᵀW‖_F², the trace of the Gram matrix squared over the sum of its squares."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.effective_rank.gram import gram_of

__all__ = ["participation"]


def participation(w: Tensor) -> Tensor:
    gram = gram_of(w)
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    squares = gram.square().sum((-2, -1))
    return torch.where(squares == 0, 0.0, trace.square() / torch.where(squares == 0, 1.0, squares))
