"""The functions of this folder in Triton, for use inside other kernels, in float32."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["activated", "activated_and_slope"]


@triton.jit
def activated(x, NAME: tl.constexpr, PRECISE: tl.constexpr):
    """PRECISE to float32's last bits; else well within those of bfloat16 and float16, in half the instructions."""
    if NAME == "gelu" and PRECISE:
        return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    return activated_and_slope(x, NAME)[0]


@triton.jit
def activated_and_slope(x, NAME: tl.constexpr):
    """The function and its derivative, which share what is dear; the compiler leaves out what nobody uses."""
    if NAME == "relu":
        y, dy = tl.where(x < 0, 0.0, x), tl.where(x > 0, 1.0, 0.0)  # NaN goes through
    elif NAME == "gelu":
        below, bell = _normal(x)
        y, dy = x * below, below + x * bell
    elif NAME == "silu":
        sigma = 1 / (1 + tl.exp(-x))
        y, dy = x * sigma, sigma * (1 + x * (1 - sigma))
    else:
        y, dy = x, x * 0 + 1
    return y, dy


@triton.jit
def _normal(x):
    """Φ(x), off by 7.5e-8 at most, and φ(x). Source: Abramowitz and Stegun 1964, 7.1.26, for erf(|x|/√2)."""
    e = tl.exp2(x * x * -0.7213475204444817)  # exp(-x²/2)
    t = 1 / (1 + 0.2316418882 * tl.abs(x))
    beyond = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145)))) * e
    return tl.where(x < 0, beyond, 1 - beyond), e * 0.3989422804014327
