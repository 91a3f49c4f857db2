"""What the forms in plain torch share: 2x2 matrices of Möbius maps, and sums of first order, joined by doubling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["affine_entering", "composed", "normalised"]


def composed(maps: Tensor) -> Tensor:
    """(2, 2, ..., P): each map after all those before it, to a common factor."""
    step = 1
    while step < maps.shape[-1]:
        after, before = maps[..., step:], maps[..., :-step]
        maps = normalised(torch.cat((maps[..., :step], _product(after, before)), -1))
        step *= 2
    return maps


def _product(left: Tensor, right: Tensor) -> Tensor:
    return left[:, 0, None] * right[None, 0] + left[:, 1, None] * right[None, 1]


def normalised(matrices: Tensor) -> Tensor:
    """So that the largest real or imaginary part of each 2x2 matrix is 1."""
    parts = torch.view_as_real(matrices)
    return torch.view_as_complex(parts / parts.abs().amax(-1).flatten(0, 1).amax(0)[..., None])


def affine_entering(scale: Tensor, total: Tensor) -> Tensor:
    """(..., P): what enters each chunk, where a chunk makes scale · x + total of x, and 0 enters the first."""
    step = 1
    while step < total.shape[-1]:
        total = torch.cat((total[..., :step], total[..., step:] + scale[..., step:] * total[..., :-step]), -1)
        scale = torch.cat((scale[..., :step], scale[..., step:] * scale[..., :-step]), -1)
        step *= 2
    return pad(total[..., :-1], (1, 0))
