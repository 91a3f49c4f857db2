"""What the copy engine asks of a tensor in memory."""

from __future__ import annotations

from torch import Tensor

__all__ = ["copyable"]

_COPY_BYTES = 16
"""It wants addresses and strides in multiples of this."""


def copyable(x: Tensor) -> Tensor:
    """`x` (B, H, length, width), or a copy where the engine does not take its strides."""
    strided = all(x.stride(d) * x.itemsize % _COPY_BYTES == 0 and x.stride(d) > 0 for d in range(3))
    if not strided or x.stride(3) != 1 or x.data_ptr() % _COPY_BYTES:
        return x.contiguous()
    return x
