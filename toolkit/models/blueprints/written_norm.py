"""Layer normalization written out in means and squares.

The same parameters and answers as nn.LayerNorm over the last axis. Exported, it is made of operators that every runtime
has: TensorRT 8.2 does not read LayerNormalization, and where a runtime does, the pass FuseLayerNorm makes it one.

Source: Ba et al. 2016, arXiv:1607.06450.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["WrittenNorm"]


class WrittenNorm(nn.LayerNorm):
    """nn.LayerNorm over one axis of `features`; statistics are in float32, also under autocast."""

    def __init__(self, features: int) -> None:
        super().__init__(features)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (..., features) with mean 0 and variance 1, scaled and shifted; of its own type."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        centred = wide - wide.mean(-1, keepdim=True)
        deviation = torch.sqrt((centred * centred).mean(-1, keepdim=True) + self.eps)
        return (centred / deviation * self.weight + self.bias).to(x.dtype)
