"""The Triton form: a thread keeps a chunk of sites in registers, and chunks are joined by a scan.

A program takes ROWS segments, CHUNKS chunks each, of SITES sites. A tuple holds one (ROWS, CHUNKS) tensor for each site
of a chunk; w are links to the right; eight letters in a row are the minors of a chunk (whole, without its first site,
without its last, without both), real and imaginary part of each. README.md derives what is computed.
"""

# Triton joins tuples by + alone, and a name of one may grow from site to site.
# ruff: noqa: RUF005, RUF059, E741
# mypy: disable-error-code="assignment,valid-type"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.bk_core.chain import Chain

__all__ = ["bk_core", "bk_core_backward"]

_SITES = {torch.float32: 16, torch.float64: 8}
"""Of a thread: what its registers hold."""
_THREADS = 32
"""One warp a program: scans across warps take more registers than there are (8 ms instead of 0.3 at (8192, 2048))."""
_TILE = 32
"""Segments that are joined at a time."""
fp64 = tl.float64
"""Named so, and no other way, Triton takes a Python number in double precision."""


@triton.jit
def _times(ar, ai, br, bi):
    return ar * br - ai * bi, ar * bi + ai * br


@triton.jit
def _inverse(re, im):
    s = 1.0 / (re * re + im * im)
    return re * s, -im * s


@triton.jit
def _normalised(a, b, c, d, e, f, g, h):
    ab, cd = tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(c), tl.abs(d))
    ef, gh = tl.maximum(tl.abs(e), tl.abs(f)), tl.maximum(tl.abs(g), tl.abs(h))
    s = 1.0 / tl.maximum(tl.maximum(ab, cd), tl.maximum(ef, gh))
    return a * s, b * s, c * s, d * s, e * s, f * s, g * s, h * s


@triton.jit
def _minor(ar, ai, br, bi, w, cr, ci, dr, di):
    """a b − w c d."""
    abr, abi = _times(ar, ai, br, bi)
    cdr, cdi = _times(cr, ci, dr, di)
    return abr - w * cdr, abi - w * cdi


@triton.jit
def _joined(a, b, c, d, e, f, g, h, w, A, B, C, D, E, F, G, H, W):
    """Neighbours, the left one first."""
    p, q = _minor(a, b, A, B, w, e, f, C, D)
    r, s = _minor(c, d, A, B, w, g, h, C, D)
    t, u = _minor(a, b, E, F, w, e, f, G, H)
    v, x = _minor(c, d, E, F, w, g, h, G, H)
    p, q, r, s, t, u, v, x = _normalised(p, q, r, s, t, u, v, x)
    return p, q, r, s, t, u, v, x, W


@triton.jit
def _joined_from_the_right(A, B, C, D, E, F, G, H, W, a, b, c, d, e, f, g, h, w):
    p, q, r, s, t, u, v, x, _ = _joined(a, b, c, d, e, f, g, h, w, A, B, C, D, E, F, G, H, W)
    return p, q, r, s, t, u, v, x, W


@triton.jit
def _after(ar, ai, br, bi, Ar, Ai, Br, Bi):
    """x -> A (a x + b) + B."""
    sr, si = _times(Ar, Ai, ar, ai)
    tr, ti = _times(Ar, Ai, br, bi)
    return sr, si, tr + Br, ti + Bi


@triton.jit
def _through(near_r, near_i, inner_r, inner_i, all_r, all_i, far_r, far_i, xr, xi):
    """(near − x inner) / (all − x far)."""
    ar, ai = _times(xr, xi, inner_r, inner_i)
    br, bi = _times(xr, xi, far_r, far_i)
    cr, ci = _inverse(all_r - br, all_i - bi)
    return _times(near_r - ar, near_i - ai, cr, ci)


@triton.jit
def _unpacked(x, ROWS: tl.constexpr, CHUNKS: tl.constexpr, SITES: tl.constexpr):
    """(ROWS, CHUNKS, SITES) as a tuple: halved by the lowest bit of the site until one is left."""
    parts = (x,)
    for level in tl.static_range(31):
        if (1 << level) < SITES:
            even, odd = tl.split(tl.reshape(parts[0], [ROWS, CHUNKS, SITES // (2 << level), 2]))
            evens, odds = (even,), (odd,)
            for j in tl.static_range(1, 1 << level):
                even, odd = tl.split(tl.reshape(parts[j], [ROWS, CHUNKS, SITES // (2 << level), 2]))
                evens, odds = evens + (even,), odds + (odd,)
            parts = evens + odds
    sites = (tl.reshape(parts[0], [ROWS, CHUNKS]),)
    for j in tl.static_range(1, SITES):
        sites = sites + (tl.reshape(parts[j], [ROWS, CHUNKS]),)
    return sites


@triton.jit
def _packed(sites, ROWS: tl.constexpr, CHUNKS: tl.constexpr, SITES: tl.constexpr):
    """The reverse: (ROWS, CHUNKS, SITES) from a tuple."""
    parts = (tl.reshape(sites[0], [ROWS, CHUNKS, 1]),)
    for j in tl.static_range(1, SITES):
        parts = parts + (tl.reshape(sites[j], [ROWS, CHUNKS, 1]),)
    for level in tl.static_range(31):
        if (1 << level) < SITES:
            pairs = (tl.reshape(tl.join(parts[0], parts[SITES >> (level + 1)]), [ROWS, CHUNKS, 2 << level]),)
            for j in tl.static_range(1, SITES >> (level + 1)):
                pair = tl.join(parts[j], parts[j + (SITES >> (level + 1))])
                pairs = pairs + (tl.reshape(pair, [ROWS, CHUNKS, 2 << level]),)
            parts = pairs
    return parts[0]


@triton.jit
def _where(batch, n, segments, ROWS: tl.constexpr, CHUNKS: tl.constexpr, SITES: tl.constexpr):
    """Segment and rows of this program; the index of each site in its row, and in all rows, and whether it is there."""
    segment = tl.program_id(0) % segments
    row = (tl.program_id(0) // segments).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    chunk, k = tl.arange(0, CHUNKS)[None, :, None], tl.arange(0, SITES)[None, None, :]
    site = segment * CHUNKS * SITES + chunk * SITES + k
    inside = (row < batch)[:, None, None] & (site < n)
    return segment, row, site, inside


@triton.jit
def _chain(
    V,
    Links,
    Energies,
    coupling: fp64,
    real: fp64,
    imag: fp64,
    batch,
    n,
    segments,
    links_stride,
    energies_stride,
    LINKS: tl.constexpr,
    ENERGIES: tl.constexpr,
    FULL: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    SITES: tl.constexpr,
):
    """Sites of each chunk: v − Re z and links to the right; and −Im z, NaN where that is not negative."""
    segment, row, site, inside = _where(batch, n, segments, ROWS, CHUNKS, SITES)
    x = tl.load(V + row[:, None, None] * n + site, inside, other=0.0)
    if ENERGIES:
        at = Energies + 2 * row * energies_stride
        re = tl.load(at, row < batch, other=0.0)[:, None]
        im = tl.load(at + 1, row < batch, other=1.0)[:, None]
    else:
        re = tl.full([ROWS, 1], real, x.dtype)
        im = tl.full([ROWS, 1], imag, x.dtype)
    im = tl.where(im > 0, -im, float("nan"))
    xs = _unpacked(x, ROWS, CHUNKS, SITES)
    d = (xs[0] - re,)
    for k in tl.static_range(1, SITES):
        d = d + (xs[k] - re,)
    if LINKS:
        at_links = Links + row[:, None, None] * links_stride + site
        w = _unpacked(tl.load(at_links, inside & (site < n - 1), other=0.0), ROWS, CHUNKS, SITES)
    else:
        one = tl.full([ROWS, CHUNKS], coupling, x.dtype)
        first = segment * CHUNKS * SITES + tl.arange(0, CHUNKS)[None, :] * SITES
        w = (one if FULL else tl.where(first < n - 1, one, 0.0),)
        for k in tl.static_range(1, SITES):
            w = w + (one if FULL else tl.where(first + k < n - 1, one, 0.0),)
    return d, tl.zeros([ROWS, CHUNKS], x.dtype) + im, w


@triton.jit
def _minors(d, im, w, STEPS: tl.constexpr, SITES: tl.constexpr):
    zero = tl.zeros_like(im)
    one = zero + 1.0
    ar, ai, br, bi = d[0], im, one, zero
    cr, ci, dr, di = one, zero, zero, zero
    for k in tl.static_range(1, SITES):
        tr, ti = _times(d[k], im, ar, ai)
        ur, ui = _times(d[k], im, br, bi)
        tr, ti, ur, ui = tr - w[k - 1] * cr, ti - w[k - 1] * ci, ur - w[k - 1] * dr, ui - w[k - 1] * di
        cr, ci, dr, di = ar, ai, br, bi
        ar, ai, br, bi = tr, ti, ur, ui
        if k % STEPS == 0:
            ar, ai, br, bi, cr, ci, dr, di = _normalised(ar, ai, br, bi, cr, ci, dr, di)
    return _normalised(ar, ai, br, bi, cr, ci, dr, di)


@triton.jit
def _neighbours(x, by, outside):
    """What the chunk `by` before has; `outside` where there is none."""
    chunks: tl.constexpr = x.shape[1]
    chunk = tl.zeros(x.shape, tl.int32) + tl.arange(0, chunks)[None, :]
    wanted = chunk - by
    there = (wanted >= 0) & (wanted < chunks)
    return tl.where(there, tl.gather(x, tl.where(there, wanted, 0), 1), outside)


@triton.jit
def _at_segment(Entering, row, segment, batch, segments, direction: tl.constexpr, SEGMENTED: tl.constexpr, zero):
    """What enters the segment: real and imaginary part, (ROWS, 1)."""
    if SEGMENTED:
        at = Entering + 2 * ((direction * batch + row) * segments + segment)
        return tl.load(at, row < batch, other=0.0)[:, None], tl.load(at + 1, row < batch, other=0.0)[:, None]
    return zero, zero


@triton.jit
def _exchange(
    d, im, w, Entering, row, segment, batch, segments, SEGMENTED: tl.constexpr, STEPS: tl.constexpr, SITES: tl.constexpr
):
    """What enters each chunk: from the left a self-energy, from the right the neighbour's 1 / (d − self-energy)."""
    a, b, c, e, f, g, h, i = _minors(d, im, w, STEPS, SITES)
    last = w[SITES - 1]
    zero = tl.sum(im * 0, 1, keep_dims=True)
    xr, xi = _at_segment(Entering, row, segment, batch, segments, 0, SEGMENTED, zero)
    A, B, C, E, F, G, H, I, W = tl.associative_scan((a, b, c, e, f, g, h, i, last), 1, _joined)
    sr, si = _through(F, G, H, I, A, B, C, E, xr, xi)
    sr, si = _neighbours(W * sr, 1, xr), _neighbours(W * si, 1, xi)
    yr, yi = _at_segment(Entering, row, segment, batch, segments, 1, SEGMENTED, zero)
    A, B, C, E, F, G, H, I, W = tl.associative_scan(
        (a, b, c, e, f, g, h, i, last), 1, _joined_from_the_right, reverse=True
    )
    tail = tl.sum(tl.where(tl.arange(0, im.shape[1])[None, :] == im.shape[1] - 1, last, 0.0), 1, keep_dims=True)
    tr, ti = _through(C, E, H, I, A, B, F, G, tail * yr, tail * yi)
    return sr, si, _neighbours(tr, -1, yr), _neighbours(ti, -1, yi)


@triton.jit
def _diagonal(
    V,
    Links,
    Energies,
    coupling: fp64,
    real: fp64,
    imag: fp64,
    batch,
    n,
    segments,
    links_stride,
    energies_stride,
    Entering,
    Out,
    LINKS: tl.constexpr,
    ENERGIES: tl.constexpr,
    FULL: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    SITES: tl.constexpr,
    STEPS: tl.constexpr,
    SEGMENTED: tl.constexpr,
):
    segment, row, site, inside = _where(batch, n, segments, ROWS, CHUNKS, SITES)
    d, im, w = _chain(
        V, Links, Energies, coupling, real, imag, batch, n, segments, links_stride, energies_stride,
        LINKS, ENERGIES, FULL, ROWS, CHUNKS, SITES
    )  # fmt: skip
    sr, si, tr, ti = _exchange(d, im, w, Entering, row, segment, batch, segments, SEGMENTED, STEPS, SITES)
    above_r, above_i = (d[0] - sr,), (im - si,)
    for k in tl.static_range(1, SITES):
        ir, ii = _inverse(above_r[k - 1], above_i[k - 1])
        above_r, above_i = above_r + (d[k] - w[k - 1] * ir,), above_i + (im - w[k - 1] * ii,)
    last: tl.constexpr = SITES - 1
    sr, si = w[last] * tr, w[last] * ti
    gr, gi = _inverse(above_r[last] - sr, above_i[last] - si)
    out_r, out_i = (gr,), (gi,)
    for k in tl.static_range(SITES - 2, -1, -1):
        tr, ti = _inverse(d[k + 1] - sr, im - si)
        sr, si = w[k] * tr, w[k] * ti
        gr, gi = _inverse(above_r[k] - sr, above_i[k] - si)
        out_r, out_i = (gr,) + out_r, (gi,) + out_i
    both = tl.join(_packed(out_r, ROWS, CHUNKS, SITES), _packed(out_i, ROWS, CHUNKS, SITES))
    at = 2 * (row[:, None, None, None] * n + site[:, :, :, None]) + tl.arange(0, 2)[None, None, None, :]
    tl.store(Out + at, both, inside[:, :, :, None])


@triton.jit
def _compose(
    V,
    Links,
    Energies,
    coupling: fp64,
    real: fp64,
    imag: fp64,
    batch,
    n,
    segments,
    links_stride,
    energies_stride,
    Maps,
    Last,
    LINKS: tl.constexpr,
    ENERGIES: tl.constexpr,
    FULL: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    SITES: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Of each segment the minors and its link to the next."""
    segment, row, site, inside = _where(batch, n, segments, ROWS, CHUNKS, SITES)
    d, im, w = _chain(
        V, Links, Energies, coupling, real, imag, batch, n, segments, links_stride, energies_stride,
        LINKS, ENERGIES, FULL, ROWS, CHUNKS, SITES
    )  # fmt: skip
    a, b, c, e, f, g, h, i = _minors(d, im, w, STEPS, SITES)
    a, b, c, e, f, g, h, i, last = tl.reduce((a, b, c, e, f, g, h, i, w[SITES - 1]), 1, _joined)
    at = row * segments + segment
    there = row < batch
    tl.store(Maps + 8 * at, a, there)
    tl.store(Maps + 8 * at + 1, b, there)
    tl.store(Maps + 8 * at + 2, c, there)
    tl.store(Maps + 8 * at + 3, e, there)
    tl.store(Maps + 8 * at + 4, f, there)
    tl.store(Maps + 8 * at + 5, g, there)
    tl.store(Maps + 8 * at + 6, h, there)
    tl.store(Maps + 8 * at + 7, i, there)
    tl.store(Last + at, last, there)


@triton.jit
def _last(x, TILE: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, TILE) == TILE - 1, x, 0.0), 0, keep_dims=True)


@triton.jit
def _carry(Maps, Last, Entering, batch, segments, TILE: tl.constexpr):
    """What enters each segment, from its minors; a program goes along a row one way, TILE segments at a time."""
    row, leftward = tl.program_id(0).to(tl.int64), tl.program_id(1) == 1
    zero = tl.zeros([1], Entering.dtype.element_ty)
    xr, xi = zero, zero
    to = Entering + 2 * (tl.program_id(1) * batch + row) * segments
    first = tl.where(leftward, segments - 1, 0) + tl.arange(0, 1)
    tl.store(to + 2 * first, zero)
    tl.store(to + 2 * first + 1, zero)
    for start in range(0, segments, TILE):
        i = start + tl.arange(0, TILE)
        s, after = tl.where(leftward, segments - 1 - i, i), tl.where(leftward, segments - 2 - i, i + 1)
        there, next_there = i < segments, i + 1 < segments
        at = Maps + 8 * (row * segments + s)
        a, b = tl.load(at, there, other=1.0), tl.load(at + 1, there, other=0.0)
        first_at, last_at = tl.where(leftward, at + 4, at + 2), tl.where(leftward, at + 2, at + 4)
        c, e = tl.load(first_at, there, other=0.0), tl.load(first_at + 1, there, other=0.0)
        f, g = tl.load(last_at, there, other=0.0), tl.load(last_at + 1, there, other=0.0)
        h, j = tl.load(at + 6, there, other=0.0), tl.load(at + 7, there, other=0.0)
        w = tl.load(Last + row * segments + tl.where(leftward, after, s), next_there, other=0.0)
        a, b, c, e, f, g, h, j, w = tl.associative_scan((a, b, c, e, f, g, h, j, w), 0, _joined)
        yr, yi = _through(f, g, h, j, a, b, c, e, xr, xi)
        tl.store(to + 2 * after, tl.where(leftward, yr, w * yr), next_there)
        tl.store(to + 2 * after + 1, tl.where(leftward, yi, w * yi), next_there)
        xr, xi = _last(w * yr, TILE), _last(w * yi, TILE)


@triton.jit
def _unpacked_pairs(X, row, n, site, inside, ROWS: tl.constexpr, CHUNKS: tl.constexpr, SITES: tl.constexpr):
    """Complex sites: the real and the imaginary parts of each."""
    at = 2 * (row[:, None, None, None] * n + site[:, :, :, None]) + tl.arange(0, 2)[None, None, None, :]
    re, im = tl.split(tl.load(X + at, inside[:, :, :, None], other=0.0))
    return _unpacked(re, ROWS, CHUNKS, SITES), _unpacked(im, ROWS, CHUNKS, SITES)


@triton.jit
def _affine(d, im, w, gr, gi, sr, si, tr, ti, SITES: tl.constexpr):
    """What each chunk makes of the sums that enter it, from both sides: scale and total."""
    zero = tl.zeros_like(im)
    ar, ai, br, bi = zero + 1.0, zero, zero, zero
    for k in tl.static_range(0, SITES):
        ir, ii = _inverse(d[k] - sr, im - si)
        sr, si = w[k] * ir, w[k] * ii
        fr, fi = _times(sr, si, ir, ii)
        br, bi = _times(fr, fi, br + gr[k], bi - gi[k])
        ar, ai = _times(fr, fi, ar, ai)
    cr, ci, er, ei = zero + 1.0, zero, zero, zero
    for k in tl.static_range(SITES - 1, -1, -1):
        tr, ti = _inverse(d[k] - w[k] * tr, im - w[k] * ti)
        fr, fi = _times(tr, ti, tr, ti)
        er, ei = _times(fr, fi, w[k] * er + gr[k], w[k] * ei - gi[k])
        cr, ci = _times(fr, fi, w[k] * cr, w[k] * ci)
    return ar, ai, br, bi, cr, ci, er, ei


@triton.jit
def _totals(
    V,
    Links,
    Energies,
    coupling: fp64,
    real: fp64,
    imag: fp64,
    batch,
    n,
    segments,
    links_stride,
    energies_stride,
    Entering,
    Grad,
    Totals,
    LINKS: tl.constexpr,
    ENERGIES: tl.constexpr,
    FULL: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    SITES: tl.constexpr,
    STEPS: tl.constexpr,
):
    """What each segment makes of the sums that enter it."""
    segment, row, site, inside = _where(batch, n, segments, ROWS, CHUNKS, SITES)
    d, im, w = _chain(
        V, Links, Energies, coupling, real, imag, batch, n, segments, links_stride, energies_stride,
        LINKS, ENERGIES, FULL, ROWS, CHUNKS, SITES
    )  # fmt: skip
    sr, si, tr, ti = _exchange(d, im, w, Entering, row, segment, batch, segments, True, STEPS, SITES)
    gr, gi = _unpacked_pairs(Grad, row, n, site, inside, ROWS, CHUNKS, SITES)
    ar, ai, br, bi, cr, ci, er, ei = _affine(d, im, w, gr, gi, sr, si, tr, ti, SITES)
    ar, ai, br, bi = tl.reduce((ar, ai, br, bi), 1, _after)
    cr, ci, er, ei = tl.reduce((cr, ci, er, ei), 1, _before)
    there = row < batch
    at = Totals + 4 * (row * segments + segment)
    tl.store(at, ar, there)
    tl.store(at + 1, ai, there)
    tl.store(at + 2, br, there)
    tl.store(at + 3, bi, there)
    at = Totals + 4 * ((batch + row) * segments + segment)
    tl.store(at, cr, there)
    tl.store(at + 1, ci, there)
    tl.store(at + 2, er, there)
    tl.store(at + 3, ei, there)


@triton.jit
def _carry_sums(Totals, Sums, batch, segments, TILE: tl.constexpr):
    """The same of the sums, which each segment makes an affine function of."""
    row, leftward = tl.program_id(0).to(tl.int64), tl.program_id(1) == 1
    zero = tl.zeros([1], Sums.dtype.element_ty)
    xr, xi = zero, zero
    to = Sums + 2 * (tl.program_id(1) * batch + row) * segments
    first = tl.where(leftward, segments - 1, 0) + tl.arange(0, 1)
    tl.store(to + 2 * first, zero)
    tl.store(to + 2 * first + 1, zero)
    for start in range(0, segments, TILE):
        i = start + tl.arange(0, TILE)
        s, after = tl.where(leftward, segments - 1 - i, i), tl.where(leftward, segments - 2 - i, i + 1)
        there, next_there = i < segments, i + 1 < segments
        at = Totals + 4 * ((tl.program_id(1) * batch + row) * segments + s)
        ar, ai = tl.load(at, there, other=1.0), tl.load(at + 1, there, other=0.0)
        br, bi = tl.load(at + 2, there, other=0.0), tl.load(at + 3, there, other=0.0)
        ar, ai, br, bi = tl.associative_scan((ar, ai, br, bi), 0, _after)
        yr, yi = _times(ar, ai, xr, xi)
        yr, yi = yr + br, yi + bi
        tl.store(to + 2 * after, yr, next_there)
        tl.store(to + 2 * after + 1, yi, next_there)
        xr, xi = _last(yr, TILE), _last(yi, TILE)


@triton.jit
def _before(Ar, Ai, Br, Bi, ar, ai, br, bi):
    sr, si, tr, ti = _after(ar, ai, br, bi, Ar, Ai, Br, Bi)
    return sr, si, tr, ti


@triton.jit
def _gradient(
    V,
    Links,
    Energies,
    coupling: fp64,
    real: fp64,
    imag: fp64,
    batch,
    n,
    segments,
    links_stride,
    energies_stride,
    Entering,
    Sums,
    Grad,
    OfV,
    OfLinks,
    OfEnergy,
    LINKS: tl.constexpr,
    ENERGIES: tl.constexpr,
    FULL: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    SITES: tl.constexpr,
    STEPS: tl.constexpr,
    SEGMENTED: tl.constexpr,
    OF_LINKS: tl.constexpr,
    OF_ENERGY: tl.constexpr,
):
    segment, row, site, inside = _where(batch, n, segments, ROWS, CHUNKS, SITES)
    d, im, w = _chain(
        V, Links, Energies, coupling, real, imag, batch, n, segments, links_stride, energies_stride,
        LINKS, ENERGIES, FULL, ROWS, CHUNKS, SITES
    )  # fmt: skip
    sr, si, tr, ti = _exchange(d, im, w, Entering, row, segment, batch, segments, SEGMENTED, STEPS, SITES)
    gr, gi = _unpacked_pairs(Grad, row, n, site, inside, ROWS, CHUNKS, SITES)
    ar, ai, br, bi, cr, ci, er, ei = _affine(d, im, w, gr, gi, sr, si, tr, ti, SITES)
    zero = tl.sum(im * 0, 1, keep_dims=True)
    xr, xi = _at_segment(Sums, row, segment, batch, segments, 0, SEGMENTED, zero)
    ar, ai, br, bi = tl.associative_scan((ar, ai, br, bi), 1, _after)
    pr, pi = _times(ar, ai, xr, xi)
    ar, ai = _neighbours(pr + br, 1, xr), _neighbours(pi + bi, 1, xi)
    yr, yi = _at_segment(Sums, row, segment, batch, segments, 1, SEGMENTED, zero)
    cr, ci, er, ei = tl.associative_scan((cr, ci, er, ei), 1, _after, reverse=True)
    pr, pi = _times(cr, ci, yr, yi)
    br, bi = _neighbours(pr + er, -1, yr), _neighbours(pi + ei, -1, yi)
    above_r, above_i, sum_r, sum_i = (d[0] - sr,), (im - si,), (ar + gr[0],), (ai - gi[0],)
    for k in tl.static_range(1, SITES):
        ir, ii = _inverse(above_r[k - 1], above_i[k - 1])
        sr, si = w[k - 1] * ir, w[k - 1] * ii
        fr, fi = _times(sr, si, ir, ii)
        ar, ai = _times(fr, fi, sum_r[k - 1], sum_i[k - 1])
        above_r, above_i = above_r + (d[k] - sr,), above_i + (im - si,)
        sum_r, sum_i = sum_r + (ar + gr[k],), sum_i + (ai - gi[k],)
    energy_r, energy_i = tl.zeros_like(im), tl.zeros_like(im)
    first = segment * CHUNKS * SITES + tl.arange(0, CHUNKS)[None, :] * SITES
    for k in tl.static_range(SITES - 1, -1, -1):
        sr, si = w[k] * tr, w[k] * ti
        rr, ri = w[k] * br, w[k] * bi
        hr, hi = _inverse(above_r[k] - sr, above_i[k] - si)
        hr, hi = _times(hr, hi, hr, hi)
        qr, qi = _times(hr, hi, sum_r[k] + rr, sum_i[k] + ri)
        if OF_LINKS:
            ur, ui = _times(sum_r[k], sum_i[k], tr, ti)
            vr, vi = _times(br, bi, above_r[k], above_i[k])
            lr, li = _times(hr, hi, ur + vr, ui + vi)
            if k == SITES - 1:
                of_links = (lr,)
            else:
                of_links = (lr,) + of_links
        if OF_ENERGY:
            energy_r += tl.where(first + k < n, qr, 0.0)
            energy_i += tl.where(first + k < n, qi, 0.0)
        if k == SITES - 1:
            of_v = (-qr,)
        else:
            of_v = (-qr,) + of_v
        tr, ti = _inverse(d[k] - sr, im - si)
        fr, fi = _times(tr, ti, tr, ti)
        br, bi = _times(fr, fi, rr + gr[k], ri - gi[k])
    at = row[:, None, None] * n + site
    tl.store(OfV + at, _packed(of_v, ROWS, CHUNKS, SITES), inside)
    if OF_LINKS:
        tl.store(OfLinks + at, _packed(of_links, ROWS, CHUNKS, SITES), inside)
    if OF_ENERGY:
        to = OfEnergy + 2 * (row * segments + segment)
        tl.store(to, tl.sum(energy_r, 1), row < batch)
        tl.store(to + 1, -tl.sum(energy_i, 1), row < batch)


def bk_core(chain: Chain) -> Tensor:
    run = _Run(chain)
    out = chain.potential.new_empty(chain.potential.shape, dtype=chain.potential.dtype.to_complex())
    run(_diagonal, run.entering(), torch.view_as_real(out), STEPS=run.steps, SEGMENTED=run.segments > 1)
    return out


def bk_core_backward(
    grad: Tensor, chain: Chain, of_links: bool = True, of_energy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference's."""
    run = _Run(chain)
    grads = torch.view_as_real(grad.resolve_conj().contiguous())
    entering = run.entering()
    sums = run.sums(entering, grads)
    potential = torch.empty_like(run.v)
    links = torch.empty_like(run.v) if of_links else run.v.new_empty(0, 1)
    energy = run.v.new_empty((run.batch, run.segments) if of_energy else (0, 1), dtype=grad.dtype)
    run(
        _gradient,
        entering,
        sums,
        grads,
        potential,
        links,
        torch.view_as_real(energy),
        STEPS=run.steps,
        SEGMENTED=run.segments > 1,
        OF_LINKS=of_links,
        OF_ENERGY=of_energy,
    )
    return potential, links[:, :-1], energy.sum(1)


class _Run:
    """The launches for one chain."""

    def __init__(self, chain: Chain) -> None:
        v = self.v = chain.potential.contiguous()
        self.batch, self.n = v.shape
        sites = _SITES[v.dtype]
        chunks = min(triton.next_power_of_2(-(-self.n // sites)), _THREADS)
        self.rows, self.segments = _THREADS // chunks, -(-self.n // (sites * chunks))
        self.steps = 4 if v.dtype == torch.float32 else 16  # between normalisations: 1e9 to the 4th is a float32
        links = chain.coupling if isinstance(chain.coupling, Tensor) else None
        energies = chain.energy if isinstance(chain.energy, Tensor) else None
        number = 0j if isinstance(chain.energy, Tensor) else chain.energy
        self.arguments = (
            v,
            v if links is None else links.contiguous(),
            v if energies is None else torch.view_as_real(energies.resolve_conj().contiguous()),
            0.0 if isinstance(chain.coupling, Tensor) else float(chain.coupling),
            number.real,
            number.imag,
            self.batch,
            self.n,
            self.segments,
            self.n - 1 if links is not None and links.shape[0] > 1 else 0,
            int(energies is not None and energies.shape[0] > 1),
        )
        self.options: dict[str, Any] = {
            "LINKS": links is not None,
            "ENERGIES": energies is not None,
            "FULL": links is None and self.n % (sites * chunks) == 0,
            "ROWS": self.rows,
            "CHUNKS": chunks,
            "SITES": sites,
            "num_warps": max(_THREADS // 32, 1),
        }

    def __call__(self, kernel: Any, *arguments: Tensor, **options: Any) -> None:
        grid = (triton.cdiv(self.batch, self.rows) * self.segments,)
        kernel[grid](*self.arguments, *arguments, **self.options, **options)

    def entering(self) -> Tensor:
        """(2, batch, segments, 2): what enters each segment; of a row that is one segment, something nobody reads."""
        if self.segments == 1:
            return self.v
        maps, last = self._new(self.batch, self.segments, 8), self._new(self.batch, self.segments)
        self(_compose, maps, last, STEPS=self.steps)
        entering = self._new(2, self.batch, self.segments, 2)
        _carry[(self.batch, 2)](maps, last, entering, self.batch, self.segments, TILE=_TILE, num_warps=1)
        return entering

    def sums(self, entering: Tensor, grad: Tensor) -> Tensor:
        """The same of the gradient's sums."""
        if self.segments == 1:
            return self.v
        totals = self._new(2, self.batch, self.segments, 4)
        self(_totals, entering, grad, totals, STEPS=self.steps)
        sums = self._new(2, self.batch, self.segments, 2)
        _carry_sums[(self.batch, 2)](totals, sums, self.batch, self.segments, TILE=_TILE, num_warps=1)
        return sums

    def _new(self, *shape: int) -> Tensor:
        return self.v.new_empty(shape)
