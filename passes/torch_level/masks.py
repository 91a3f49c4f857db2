"""Weights that stay zero while the others are trained."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Masked"]


class Masked(nn.Module):
    """A parametrisation: the weight times ones and zeros."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask
