"""The Triton form, three launches each way: maps of chunks, what enters each chunk, its sites.

Heads lie side by side in memory, so that a warp's lanes are heads of one chunk and read a line at once. Complex numbers
are two floats; a map is eight: rows a, b above and c, d below.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.bk_core.fused.maps import composed, inverse, load_pair, normalised, store_map, store_pair, times

__all__ = ["bk_one_sided", "bk_one_sided_backward"]

_SITES = 16
"""Of a chunk; README.md has what more of them cost."""
_LANES = 128
_MOST_CHUNKS = 256
"""That one program joins at once; it takes them tile by tile."""


@triton.jit
def _joined(ar, ai, br, bi, cr, ci, dr, di, er, ei, fr, fi, gr, gi, hr, hi):
    """The second map after the first."""
    pr, pi = times(er, ei, ar, ai)
    qr, qi = times(fr, fi, cr, ci)
    rr, ri = times(er, ei, br, bi)
    sr, si = times(fr, fi, dr, di)
    tr, ti = times(gr, gi, ar, ai)
    ur, ui = times(hr, hi, cr, ci)
    vr, vi = times(gr, gi, br, bi)
    wr, wi = times(hr, hi, dr, di)
    return normalised(pr + qr, pi + qi, rr + sr, ri + si, tr + ur, ti + ui, vr + wr, vi + wi)


@triton.jit
def _lanes(H, P, CHUNKS: tl.constexpr, HEADS: tl.constexpr):
    """Row of the batch, chunks (CHUNKS, 1) and heads (1, HEADS) of this program, and which of them are there."""
    tiles = tl.cdiv(P, CHUNKS)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    chunk = (tl.program_id(0) % tiles) * CHUNKS + tl.arange(0, CHUNKS)[:, None]
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[None, :]
    return row, chunk, head, (chunk < P) & (head < H)


@triton.jit
def _site(U, W, row, site, head, there, N, H, w_row, w_site):
    """u, NaN where it is infinite, and the link from the site before, 0 for the first."""
    u = tl.load(U + (row * N + site) * H + head, there, other=0.0)
    return u + 0 * u, tl.load(W + row * w_row + site.to(tl.int64) * w_site + head, there & (site > 0), other=0.0)


@triton.jit
def _maps(U, W, Maps, size, N, H, P, w_row, w_site, SITES: tl.constexpr, CHUNKS: tl.constexpr, HEADS: tl.constexpr):
    row, chunk, head, inside = _lanes(H, P, CHUNKS, HEADS)
    cr = tl.zeros([CHUNKS, HEADS], U.dtype.element_ty)
    ar, ai, br, bi, ci, dr, di = cr + 1, cr, cr, cr, cr, cr + 1, cr
    for k in range(SITES):
        site = chunk * SITES + k
        there = inside & (site < N)
        u, w = _site(U, W, row, site, head, there, N, H, w_row, w_site)
        er, ei = u * cr + ci - w * ar, u * ci - cr - w * ai
        fr, fi = u * dr + di - w * br, u * di - dr - w * bi
        ar, ai, br, bi, cr, ci, dr, di = cr, ci, dr, di, er, ei, fr, fi
        if k % 8 == 7:
            ar, ai, br, bi, cr, ci, dr, di = normalised(ar, ai, br, bi, cr, ci, dr, di)
    ar, ai, br, bi, cr, ci, dr, di = normalised(ar, ai, br, bi, cr, ci, dr, di)
    at = Maps + (row * P + chunk) * H + head
    store_map(at, size, inside, ar, ai, br, bi, cr, ci, dr, di)


@triton.jit
def _last(x, TILE: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, TILE) == TILE - 1, x, 0.0), 0)


@triton.jit
def _enter(Maps, Entering, size, H, P, TILE: tl.constexpr):
    """What enters each chunk, of one row and head: ρ of the site before it."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    xr = tl.zeros([], Maps.dtype.element_ty)
    xi = xr
    tl.store(Entering + 2 * (row * P * H + head), xr)
    tl.store(Entering + 2 * (row * P * H + head) + 1, xi)
    for start in range(0, P, TILE):
        chunk = start + tl.arange(0, TILE)
        there = chunk < P
        at = Maps + (row * P + chunk) * H + head
        ar, ai = load_pair(at, size, there, 1.0)
        br, bi = load_pair(at + 2 * size, size, there, 0.0)
        cr, ci = load_pair(at + 4 * size, size, there, 0.0)
        dr, di = load_pair(at + 6 * size, size, there, 1.0)
        ar, ai, br, bi, cr, ci, dr, di = tl.associative_scan((ar, ai, br, bi, cr, ci, dr, di), 0, _joined)
        pr, pi = times(ar, ai, xr, xi)
        qr, qi = times(cr, ci, xr, xi)
        qr, qi = inverse(qr + dr, qi + di)
        pr, pi = times(pr + br, pi + bi, qr, qi)
        to = Entering + 2 * ((row * P + chunk + 1) * H + head)
        store_pair(to, 1, chunk + 1 < P, pr, pi)
        xr, xi = _last(pr, TILE), _last(pi, TILE)


@triton.jit
def _sites(U, W, Entering, Out, N, H, P, w_row, w_site, SITES: tl.constexpr, CHUNKS: tl.constexpr, HEADS: tl.constexpr):
    row, chunk, head, inside = _lanes(H, P, CHUNKS, HEADS)
    at = Entering + 2 * ((row * P + chunk) * H + head)
    xr, xi = load_pair(at, 1, inside, 0.0)
    for k in range(SITES):
        site = chunk * SITES + k
        there = inside & (site < N)
        u, w = _site(U, W, row, site, head, there, N, H, w_row, w_site)
        xr, xi = inverse(u - w * xr, -1 - w * xi)
        to = Out + 2 * ((row * N + site) * H + head)
        store_pair(to, 1, there, xr, xi)


@triton.jit
def _after(Rho, W, row, site, head, there, N, H, w_row, w_site):
    """w ρ² of a site: what the one before it is multiplied with."""
    at = Rho + 2 * ((row * N + site) * H + head)
    re, im = load_pair(at, 1, there, 0.0)
    w = tl.load(W + row * w_row + site.to(tl.int64) * w_site + head, there, other=0.0)
    sr, si = times(re, im, re, im)
    return w * sr, w * si


@triton.jit
def _affine(
    Rho, W, Grad, Sums, size, N, H, P, w_row, w_site, SITES: tl.constexpr, CHUNKS: tl.constexpr, HEADS: tl.constexpr
):
    """What each chunk makes of the sum that enters it from the right: scale and total."""
    row, chunk, head, inside = _lanes(H, P, CHUNKS, HEADS)
    br = tl.zeros([CHUNKS, HEADS], Rho.dtype.element_ty)
    ar, ai, bi = br + 1, br, br
    for back in range(SITES):
        site = chunk * SITES + SITES - 1 - back
        there = inside & (site < N)
        fr, fi = _after(Rho, W, row, site + 1, head, inside & (site + 1 < N), N, H, w_row, w_site)
        gr, gi = load_pair(Grad + 2 * ((row * N + site) * H + head), 1, there, 0.0)
        br, bi = times(fr, fi, br, bi)
        br, bi = br + gr, bi - gi
        ar, ai = times(fr, fi, ar, ai)
    at = Sums + (row * P + chunk) * H + head
    store_pair(at, size, inside, ar, ai)
    store_pair(at + 2 * size, size, inside, br, bi)


@triton.jit
def _enter_sums(Sums, Entering, size, H, P, TILE: tl.constexpr):
    """The sum that enters each chunk from the right, of one row and head."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    xr = tl.zeros([], Sums.dtype.element_ty)
    xi = xr
    last = 2 * ((row * P + P - 1) * H + head)
    tl.store(Entering + last, xr)
    tl.store(Entering + last + 1, xi)
    for start in range(0, P, TILE):
        chunk = P - 1 - start - tl.arange(0, TILE)
        there = chunk >= 0
        at = Sums + (row * P + chunk) * H + head
        ar, ai = load_pair(at, size, there, 1.0)
        br, bi = load_pair(at + 2 * size, size, there, 0.0)
        ar, ai, br, bi = tl.associative_scan((ar, ai, br, bi), 0, composed)
        pr, pi = times(ar, ai, xr, xi)
        pr, pi = pr + br, pi + bi
        to = Entering + 2 * ((row * P + chunk - 1) * H + head)
        store_pair(to, 1, chunk >= 1, pr, pi)
        xr, xi = _last(pr, TILE), _last(pi, TILE)


@triton.jit
def _gradient(
    Rho,
    W,
    Grad,
    Entering,
    OfU,
    OfW,
    N,
    H,
    P,
    w_row,
    w_site,
    OF_W: tl.constexpr,
    SITES: tl.constexpr,
    CHUNKS: tl.constexpr,
    HEADS: tl.constexpr,
):
    row, chunk, head, inside = _lanes(H, P, CHUNKS, HEADS)
    at = Entering + 2 * ((row * P + chunk) * H + head)
    tr, ti = load_pair(at, 1, inside, 0.0)
    for back in range(SITES):
        site = chunk * SITES + SITES - 1 - back
        there = inside & (site < N)
        fr, fi = _after(Rho, W, row, site + 1, head, inside & (site + 1 < N), N, H, w_row, w_site)
        one = (row * N + site) * H + head
        gr, gi = load_pair(Grad + 2 * one, 1, there, 0.0)
        tr, ti = times(fr, fi, tr, ti)
        tr, ti = tr + gr, ti - gi
        re, im = load_pair(Rho + 2 * one, 1, there, 0.0)
        sr, si = times(re, im, re, im)
        gr, gi = times(sr, si, tr, ti)
        tl.store(OfU + one, -gr, there)
        if OF_W:
            pr, pi = load_pair(Rho + 2 * (one - H), 1, there & (site > 0), 0.0)
            tl.store(OfW + one, gr * pr - gi * pi, there)


def bk_one_sided(u: Tensor, w: Tensor) -> Tensor:
    run = _Run(u, w)
    maps, entering = u.new_empty(8, run.maps), run.entering()
    out = u.new_empty(*u.shape, 2)
    u = u.contiguous()
    _maps[run.grid](u, run.w, maps, run.maps, *run.sizes, *run.strides, **run.tile)
    _enter[run.rows](maps, entering, run.maps, *run.sizes[1:], TILE=run.joined)
    _sites[run.grid](u, run.w, entering, out, *run.sizes, *run.strides, **run.tile)
    return out


def bk_one_sided_backward(grad: Tensor, w: Tensor, rho: Tensor, of_links: bool) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    run = _Run(rho[..., 0], w)
    sums, entering = rho.new_empty(4, run.maps), run.entering()
    of_u = rho.new_empty(rho.shape[:3])
    links = torch.empty_like(of_u) if of_links else of_u.new_empty(0)
    grad = grad.contiguous()
    _affine[run.grid](rho, run.w, grad, sums, run.maps, *run.sizes, *run.strides, **run.tile)
    _enter_sums[run.rows](sums, entering, run.maps, *run.sizes[1:], TILE=run.joined)
    _gradient[run.grid](
        rho, run.w, grad, entering, of_u, links, *run.sizes, *run.strides, OF_W=of_links, **run.tile
    )  # fmt: skip
    return of_u, links


class _Run:
    """How a call is cut: lanes are heads of some chunks."""

    def __init__(self, u: Tensor, w: Tensor) -> None:
        batch, n, heads = u.shape
        self.w = w if w.stride(2) == 1 else w.contiguous()
        self.strides = self.w.stride()[:2]
        chunks = triton.cdiv(n, _SITES)
        self.sizes = (n, heads, chunks)
        self.maps = batch * chunks * heads
        wide = min(triton.next_power_of_2(heads), 32)
        self.tile = {"SITES": _SITES, "CHUNKS": _LANES // wide, "HEADS": wide}
        self.grid = (batch * triton.cdiv(chunks, self.tile["CHUNKS"]), triton.cdiv(heads, wide))
        self.rows = (batch, heads)
        self.joined = max(min(triton.next_power_of_2(chunks), _MOST_CHUNKS), 2)
        self._new = u.new_empty

    def entering(self) -> Tensor:
        """(batch, chunks, heads, 2): what enters each chunk."""
        return self._new(self.maps, 2)
