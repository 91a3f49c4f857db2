"""What runs on Vulkan devices. Each operator is checked against float64 in the tests.

Where an input is NaN or infinite, so is the answer that depends on it, on drivers that keep IEEE arithmetic, as Mesa's
do; WGSL does not ask it of others.
"""

from __future__ import annotations

import struct
from math import ceil, isfinite

import numpy as np

from kernels.vulkan.device import Array, Device, Dispatch

__all__ = ["attention", "bk_core", "gray_scott", "matmul"]

_TILE, _CHAINS, _CELLS = 64, 64, 16
_QUERIES, _PART, _MOST_FEATURES = 128, 32, 128
_STEPS_AT_ONCE = 64


def matmul(device: Device, a: Array, b: Array) -> Array:
    """(batch, m, k) times (batch, k, n), or times (k, n) for all, in float32; (m, k) for a batch of one.

    Raises:
        TypeError: they are not float32.
        ValueError: the shapes do not fit, or are more than 65535 matrices or tiles along an axis.
        MemoryError, DeviceLost: see `Device.put`.
    """
    if a.dtype != np.float32 or b.dtype != np.float32:
        raise TypeError(f"matmul takes float32, not {a.dtype} and {b.dtype}")
    is_shared = len(b.shape) == 2
    batch, m, k = a.shape if len(a.shape) == 3 else (1, *a.shape) if len(a.shape) == 2 else (0, 0, 0)
    if not batch or len(b.shape) not in (2, 3) or b.shape[-2] != k or not (is_shared or b.shape[0] == batch):
        raise ValueError(f"{a.shape} times {b.shape} is no product of matrices")
    n = b.shape[-1]
    out = device.empty((batch, m, n) if len(a.shape) == 3 or not is_shared else (m, n))
    sizes = struct.pack("4I", m, n, k, is_shared)
    device.submit([Dispatch("matmul/matmul.wgsl", (a, b, out), sizes, (ceil(n / _TILE), ceil(m / _TILE), batch))])
    return out


def attention(
    device: Device, q: Array, k: Array, v: Array, *, causal: bool = False, scale: float | None = None
) -> Array:
    """softmax(scale · q kᵀ) v in float32, without the matrix in between.

    Args:
        q: (heads, M, d), d at most 128; heads of all samples together.
        k, v: (heads, N, d).
        causal: The last query sees the last key; a row that sees none is zero. What is hidden may be NaN.
        scale: 1/√d where left out.

    Raises:
        TypeError: they are not float32.
        ValueError: the shapes do not fit, d is too large, or there are more than 65535 heads.
        MemoryError, DeviceLost: see `Device.put`.

    Source: Milakov and Gimelshein 2018, arXiv:1805.02867 (the running maximum).
    """
    if len({q.dtype, k.dtype, v.dtype, np.dtype(np.float32)}) > 1:
        raise TypeError(f"attention takes float32, not {q.dtype}, {k.dtype} and {v.dtype}")
    fits = len(q.shape) == len(k.shape) == 3 and k.shape == v.shape and q.shape[::2] == k.shape[::2]
    if not fits or q.shape[2] > _MOST_FEATURES:
        raise ValueError(
            f"q, k and v must be (heads, M, d), (heads, N, d) twice, d <= {_MOST_FEATURES}; got {q.shape}, {k.shape}, "
            f"{v.shape}"
        )
    heads, m, d = q.shape
    out = device.empty(q.shape)
    parts = 1 if d <= _PART else 2 if d <= 2 * _PART else 4
    sizes = struct.pack("4IfI", m, k.shape[1], d, causal, d**-0.5 if scale is None else scale, parts)
    groups = (ceil(m * parts / _QUERIES), heads, 1)
    device.submit([Dispatch("attention/attention.wgsl", (q, k, v, out), sizes, groups)])
    return out


def gray_scott(
    device: Device, state: Array, *, steps: int, diffusion: tuple[float, float], feed: float, kill: float, dt: float,
    spacing: float = 1.0,
) -> Array:  # fmt: skip
    """`steps` explicit steps of the Gray-Scott reaction on a periodic grid; `state` stays as it is.

    Args:
        state: (batch, 2, height, width) or (2, height, width).
        diffusion: Of both species, in spacing² per time.
        dt: At most spacing² / (4 · the larger diffusion), beyond which the scheme is unstable. A fast reaction may ask
            for less, which nobody checks.

    Raises:
        ValueError: the shape does not fit, there is no step, `dt` is too long, or a number is not finite or is out of
            its range.
        MemoryError, DeviceLost: see `Device.put`.

    Source: Pearson 1993, Science 261, 189.
    """
    if len(state.shape) not in (3, 4) or state.shape[-3] != 2 or state.dtype != np.float32:
        raise ValueError(f"the state must be (batch, 2, height, width) in float32, got {state.shape} in {state.dtype}")
    if not all(map(isfinite, (*diffusion, feed, kill, dt, spacing))) or min(diffusion) < 0 or not spacing > 0:
        raise ValueError(f"no diffusion of {diffusion}, feed of {feed:g}, kill of {kill:g} and spacing of {spacing:g}")
    longest = spacing**2 / (4 * max(diffusion)) if max(diffusion) > 0 else float("inf")
    if steps < 1 or not 0 < dt <= longest:
        raise ValueError(f"{steps} steps of {dt:g}: want one or more, of {longest:g} at most")
    height, width = state.shape[-2:]
    batch = state.shape[0] if len(state.shape) == 4 else 1
    sizes = struct.pack("2I6f", height, width, *diffusion, feed, kill, dt, spacing**-2)
    groups = (ceil(width / _CELLS), ceil(height / _CELLS), batch)
    places = [device.empty(state.shape), device.empty(state.shape) if steps > 1 else state]
    now = state
    for first in range(0, steps, _STEPS_AT_ONCE):
        work = []
        for step in range(first, min(steps, first + _STEPS_AT_ONCE)):
            after = places[step % 2]
            work.append(Dispatch("pattern_step/gray_scott.wgsl", (now, after), sizes, groups))
            now = after
        device.submit(work)
    return now


def bk_core(
    device: Device, v: Array, *, z: complex, upper: float = -1.0, lower: float | None = None, diagonal: float = 2.0
) -> Array:  # fmt: skip
    """The diagonal of (H0 + diag(v) − z)⁻¹, see `kernels.bk_core.bk_core`; here sites come first.

    Args:
        v: (n, batch) float32.
        z: The energy, Im z > 0 in float32.
        upper, lower, diagonal: Of H0, one number each; upper · lower >= 0.

    Returns:
        (n, batch) complex64; NaN in chains where `v` holds NaN or infinity.

    Raises:
        ValueError: Im z <= 0, upper · lower < 0, or `v` is not (n, batch).
        MemoryError, DeviceLost: see `Device.put`.

    Source: Godfrin 1991, J. Phys.: Condens. Matter 3, 7843.
    """
    link = upper * (upper if lower is None else lower)
    if len(v.shape) != 2 or v.dtype != np.float32:
        raise ValueError(f"v must be (n, batch) float32, got {v.shape} {v.dtype}")
    if not z.imag >= np.finfo(np.float32).tiny or not link >= 0:
        raise ValueError(f"Im z must be above 0 and upper · lower not below it, got {z} and {link:g}")
    sites, chains = v.shape
    out = device.empty(v.shape, np.complex64)
    sizes = struct.pack("2I4f", chains, sites, z.real, z.imag, diagonal, link)
    device.submit([Dispatch("bk_core/chain.wgsl", (v, out), sizes, (ceil(chains / _CHAINS), 1, 1))])
    return out
