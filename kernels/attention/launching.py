"""What every launch of attention's kernels needs: how tensors are described to them, and constants."""

from __future__ import annotations

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.attention.strides import copyable
from kernels.attention.tiles import TILE

__all__ = ["LOG2_E", "TILE", "descriptor", "listed", "precision", "width"]

LOG2_E = 1.4426950408889634


def descriptor(x: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """(B, H, length, width) as tiles of `rows` x `columns` of one head; what lies outside reads as zero.

    Strides are kept where the copy engine takes them, else the tensor is copied.
    """
    x = copyable(x)
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, rows, columns])


def listed(tiles: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of a map of tiles (rows, columns), how many each row has, and which, in order; int32, nothing waits for them."""
    if tiles is None:
        return like, like.new_empty((1, 1), dtype=torch.int32)
    columns = torch.argsort(tiles.logical_not().to(torch.int8), dim=1, stable=True)
    return tiles.sum(1, dtype=torch.int32), columns.to(torch.int32).contiguous()


def precision(dtype: torch.dtype) -> str:
    """Products of float32 run on the matrix units in three parts, which is as exact as without them."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def width(d: int) -> int:
    """The tile that holds a row of `d` elements."""
    return max(16, 1 << (d - 1).bit_length())
