"""Complex numbers as pairs, and the maps that chunks of a chain are, joined to those of neighbours.

Eight letters in a row are the minors of a chunk (whole, without its first site, without its last, without both), real
and imaginary part of each. README.md derives what is computed.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "composed", "inverse", "joined", "joined_from_the_right", "load_pair", "normalised",
    "store_map", "store_pair", "through", "times",
]  # fmt: skip


@triton.jit
def times(ar, ai, br, bi):
    return ar * br - ai * bi, ar * bi + ai * br


@triton.jit
def inverse(re, im):
    s = 1.0 / (re * re + im * im)
    return re * s, -im * s


@triton.jit
def normalised(a, b, c, d, e, f, g, h):
    ab, cd = tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(c), tl.abs(d))
    ef, gh = tl.maximum(tl.abs(e), tl.abs(f)), tl.maximum(tl.abs(g), tl.abs(h))
    s = 1.0 / tl.maximum(tl.maximum(ab, cd), tl.maximum(ef, gh))
    return a * s, b * s, c * s, d * s, e * s, f * s, g * s, h * s


@triton.jit
def _minor(ar, ai, br, bi, w, cr, ci, dr, di):
    """a b − w c d."""
    abr, abi = times(ar, ai, br, bi)
    cdr, cdi = times(cr, ci, dr, di)
    return abr - w * cdr, abi - w * cdi


@triton.jit
def joined(a, b, c, d, e, f, g, h, w, A, B, C, D, E, F, G, H, W):
    """Neighbours, the left one first."""
    p, q = _minor(a, b, A, B, w, e, f, C, D)
    r, s = _minor(c, d, A, B, w, g, h, C, D)
    t, u = _minor(a, b, E, F, w, e, f, G, H)
    v, x = _minor(c, d, E, F, w, g, h, G, H)
    p, q, r, s, t, u, v, x = normalised(p, q, r, s, t, u, v, x)
    return p, q, r, s, t, u, v, x, W


@triton.jit
def joined_from_the_right(A, B, C, D, E, F, G, H, W, a, b, c, d, e, f, g, h, w):
    p, q, r, s, t, u, v, x, _ = joined(a, b, c, d, e, f, g, h, w, A, B, C, D, E, F, G, H, W)
    return p, q, r, s, t, u, v, x, W


@triton.jit
def through(near_r, near_i, inner_r, inner_i, all_r, all_i, far_r, far_i, xr, xi):
    """(near − x inner) / (all − x far)."""
    ar, ai = times(xr, xi, inner_r, inner_i)
    br, bi = times(xr, xi, far_r, far_i)
    cr, ci = inverse(all_r - br, all_i - bi)
    return times(near_r - ar, near_i - ai, cr, ci)


@triton.jit
def composed(ar, ai, br, bi, Ar, Ai, Br, Bi):
    """x -> A (a x + b) + B."""
    sr, si = times(Ar, Ai, ar, ai)
    tr, ti = times(Ar, Ai, br, bi)
    return sr, si, tr + Br, ti + Bi


@triton.jit
def load_pair(at, apart, there, outside):
    """Two numbers that lie `apart`; `outside` and 0 where there are none."""
    return tl.load(at, there, other=outside), tl.load(at + apart, there, other=0.0)


@triton.jit
def store_pair(at, apart, there, re, im):
    tl.store(at, re, there)
    tl.store(at + apart, im, there)


@triton.jit
def store_map(at, apart, there, a, b, c, d, e, f, g, h):
    """Eight of them."""
    store_pair(at, apart, there, a, b)
    store_pair(at + 2 * apart, apart, there, c, d)
    store_pair(at + 4 * apart, apart, there, e, f)
    store_pair(at + 6 * apart, apart, there, g, h)
