"""The sites of a program, and what enters each of its chunks.

A program takes ROWS segments, CHUNKS chunks each, of SITES sites. A tuple holds one (ROWS, CHUNKS) tensor for each site
of a chunk; w are links to the right.
"""

# Triton joins tuples by + alone, and a name of one may grow from site to site.
# ruff: noqa: RUF005, E741
# mypy: disable-error-code="assignment,valid-type"

from __future__ import annotations

import triton
import triton.language as tl

from kernels.bk_core.fused.maps import joined, joined_from_the_right, load_pair, normalised, through, times

__all__ = [
    "at_chunk", "at_segment", "chain_of", "exchange", "fp64", "minors", "neighbours", "packed", "place",
    "unpacked_pairs",
]  # fmt: skip

fp64 = tl.float64
"""Named so, and no other way, Triton takes a Python number in double precision."""


@triton.jit
def unpacked(x, ROWS: tl.constexpr, CHUNKS: tl.constexpr, SITES: tl.constexpr):
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
def packed(sites, ROWS: tl.constexpr, CHUNKS: tl.constexpr, SITES: tl.constexpr):
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
def unpacked_pairs(X, row, n, site, inside, ROWS: tl.constexpr, CHUNKS: tl.constexpr, SITES: tl.constexpr):
    """Complex sites: the real and the imaginary parts of each."""
    at = 2 * (row[:, None, None, None] * n + site[:, :, :, None]) + tl.arange(0, 2)[None, None, None, :]
    re, im = tl.split(tl.load(X + at, inside[:, :, :, None], other=0.0))
    return unpacked(re, ROWS, CHUNKS, SITES), unpacked(im, ROWS, CHUNKS, SITES)


@triton.jit
def place(batch, n, segments, ROWS: tl.constexpr, CHUNKS: tl.constexpr, SITES: tl.constexpr):
    """Segment and rows of this program; the index of each site in its row, and in all rows, and whether it is there."""
    segment = tl.program_id(0) % segments
    row = (tl.program_id(0) // segments).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    chunk, k = tl.arange(0, CHUNKS)[None, :, None], tl.arange(0, SITES)[None, None, :]
    site = segment * CHUNKS * SITES + chunk * SITES + k
    inside = (row < batch)[:, None, None] & (site < n)
    return segment, row, site, inside


@triton.jit
def chain_of(
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
    segment, row, site, inside = place(batch, n, segments, ROWS, CHUNKS, SITES)
    x = tl.load(V + row[:, None, None] * n + site, inside, other=0.0)
    if ENERGIES:
        at = Energies + 2 * row * energies_stride
        re = tl.load(at, row < batch, other=0.0)[:, None]
        im = tl.load(at + 1, row < batch, other=1.0)[:, None]
    else:
        re = tl.full([ROWS, 1], real, x.dtype)
        im = tl.full([ROWS, 1], imag, x.dtype)
    im = tl.where(im > 0, -im, float("nan"))
    xs = unpacked(x, ROWS, CHUNKS, SITES)
    d = (xs[0] - re,)
    for k in tl.static_range(1, SITES):
        d = d + (xs[k] - re,)
    if LINKS:
        at_links = Links + row[:, None, None] * links_stride + site
        w = unpacked(tl.load(at_links, inside & (site < n - 1), other=0.0), ROWS, CHUNKS, SITES)
    else:
        one = tl.full([ROWS, CHUNKS], coupling, x.dtype)
        first = segment * CHUNKS * SITES + tl.arange(0, CHUNKS)[None, :] * SITES
        w = (one if FULL else tl.where(first < n - 1, one, 0.0),)
        for k in tl.static_range(1, SITES):
            w = w + (one if FULL else tl.where(first + k < n - 1, one, 0.0),)
    return d, tl.zeros([ROWS, CHUNKS], x.dtype) + im, w


@triton.jit
def minors(d, im, w, STEPS: tl.constexpr, SITES: tl.constexpr):
    zero = tl.zeros_like(im)
    one = zero + 1.0
    ar, ai, br, bi = d[0], im, one, zero
    cr, ci, dr, di = one, zero, zero, zero
    for k in tl.static_range(1, SITES):
        tr, ti = times(d[k], im, ar, ai)
        ur, ui = times(d[k], im, br, bi)
        tr, ti, ur, ui = tr - w[k - 1] * cr, ti - w[k - 1] * ci, ur - w[k - 1] * dr, ui - w[k - 1] * di
        cr, ci, dr, di = ar, ai, br, bi
        ar, ai, br, bi = tr, ti, ur, ui
        if k % STEPS == 0:
            ar, ai, br, bi, cr, ci, dr, di = normalised(ar, ai, br, bi, cr, ci, dr, di)
    return normalised(ar, ai, br, bi, cr, ci, dr, di)


@triton.jit
def neighbours(x, by, outside):
    """What the chunk `by` before has; `outside` where there is none."""
    chunks: tl.constexpr = x.shape[1]
    chunk = tl.zeros(x.shape, tl.int32) + tl.arange(0, chunks)[None, :]
    wanted = chunk - by
    there = (wanted >= 0) & (wanted < chunks)
    return tl.where(there, tl.gather(x, tl.where(there, wanted, 0), 1), outside)


@triton.jit
def at_chunk(x, chunk):
    """What one chunk has: (ROWS, CHUNKS) to (ROWS,)."""
    return tl.sum(tl.where(tl.arange(0, x.shape[1])[None, :] == chunk, x, 0.0), 1)


@triton.jit
def at_segment(Entering, row, segment, batch, segments, direction: tl.constexpr, SEGMENTED: tl.constexpr, zero):
    """What enters the segment: real and imaginary part, (ROWS, 1)."""
    if SEGMENTED:
        at = Entering + 2 * ((direction * batch + row) * segments + segment)
        re, im = load_pair(at, 1, row < batch, 0.0)
        return re[:, None], im[:, None]
    return zero, zero


@triton.jit
def exchange(
    d, im, w, Entering, row, segment, batch, segments, SEGMENTED: tl.constexpr, STEPS: tl.constexpr, SITES: tl.constexpr
):
    """What enters each chunk: from the left a self-energy, from the right the neighbour's 1 / (d − self-energy)."""
    a, b, c, e, f, g, h, i = minors(d, im, w, STEPS, SITES)
    last = w[SITES - 1]
    zero = tl.sum(im * 0, 1, keep_dims=True)
    xr, xi = at_segment(Entering, row, segment, batch, segments, 0, SEGMENTED, zero)
    A, B, C, E, F, G, H, I, W = tl.associative_scan((a, b, c, e, f, g, h, i, last), 1, joined)
    sr, si = through(F, G, H, I, A, B, C, E, xr, xi)
    sr, si = neighbours(W * sr, 1, xr), neighbours(W * si, 1, xi)
    yr, yi = at_segment(Entering, row, segment, batch, segments, 1, SEGMENTED, zero)
    A, B, C, E, F, G, H, I, W = tl.associative_scan(
        (a, b, c, e, f, g, h, i, last), 1, joined_from_the_right, reverse=True
    )
    tail = at_chunk(last, im.shape[1] - 1)[:, None]
    tr, ti = through(C, E, H, I, A, B, F, G, tail * yr, tail * yi)
    return sr, si, neighbours(tr, -1, yr), neighbours(ti, -1, yi)
