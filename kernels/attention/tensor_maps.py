"""Tensors as Hopper's copy engine is told of them: a CUtensorMap, which the driver writes."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.attention.strides import copyable
from kernels.nvrtc import driver

__all__ = ["tensor_map"]

_BYTES, _ALIGNMENT = 128, 64
_KIND = {torch.float16: 6, torch.bfloat16: 9}
"""CUtensorMapDataType of cuda.h."""
_SWIZZLED, _PROMOTED = 3, 3
"""CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B: rows of 128 bytes, as the matrix unit wants them."""
COLUMNS = 64
"""Of a box: 128 bytes."""


def tensor_map(x: Tensor, rows: int) -> tuple[bytes, Tensor]:
    """(B, H, length, width) in boxes of `rows` x COLUMNS of one head, zero outside; and the tensor that it speaks of.

    That is `x`, or a copy where its strides are not for the copy engine.
    """
    x = copyable(x)
    memory = ctypes.create_string_buffer(_BYTES + _ALIGNMENT)
    aligned = -(-ctypes.addressof(memory) // _ALIGNMENT) * _ALIGNMENT
    sizes = (ctypes.c_uint64 * 4)(*reversed(x.shape))
    strides = (ctypes.c_uint64 * 3)(*(x.stride(d) * x.itemsize for d in (2, 1, 0)))
    box, steps = (ctypes.c_uint32 * 4)(COLUMNS, rows, 1, 1), (ctypes.c_uint32 * 4)(1, 1, 1, 1)
    failed = driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(aligned), _KIND[x.dtype], 4, ctypes.c_void_p(x.data_ptr()), sizes, strides, box, steps,
        0, _SWIZZLED, _PROMOTED, 0,
    )  # fmt: skip
    if failed:
        raise RuntimeError(f"the driver takes no map of {tuple(x.shape)}, strides {x.stride()}: CUresult {failed}")
    return ctypes.string_at(aligned, _BYTES), x
