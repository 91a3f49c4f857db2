"""The functions of this folder in Triton, for use inside other kernels"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["activated", "slope"]


@triton.jit
def activated(x, NAME: tl.constexpr):
    if NAME == "relu":
        x = tl.where(x < 0, 0.0, x)  # NaN goes through
    elif NAME == "gelu":
        x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif NAME == "silu":
        x = x / (1 + tl.exp(-x))
    return x


@triton.jit
def slope(x, NAME: tl.constexpr):
    if NAME == "relu":
        x = tl.where(x > 0, 1.0, 0.0)
    elif NAME == "gelu":
        x = 0.5 * (1 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    elif NAME == "silu":
        sigma = 1 / (1 + tl.exp(-x))
        x = sigma * (1 + x * (1 - sigma))
    else:
        x = x * 0 + 1
    return x
