"""The one-sided resolvent in Triton, three launches each way: maps of chunks, what enters each chunk, its sites.

Heads lie side by side in memory, so that a warp's lanes are heads of one chunk and read a line at once. `one_sided.py`
has the recursions. Complex numbers are two floats; a map is eight: rows a, b above and c, d below.
"""

# mypy: disable-error-code="no-untyped-def,misc,no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["gradients", "resolvent"]

_SITES = 16
"""Of a chunk. 32 heads of 131,072 sites in one row take an H100 249 µs, and 246 µs for the gradient; with 32 sites they
take 302 and 320, with 64 1784 and 629: few lanes then walk far."""
_LANES = 128
_MOST_CHUNKS = 256
"""That one program joins at once; it takes them tile by tile."""


@triton.jit
def _times(ar, ai, br, bi):
    return ar * br - ai * bi, ar * bi + ai * br


@triton.jit
def _inverse(re, im):
    square = re * re + im * im
    return re / square, -im / square


@triton.jit
def _largest(a, b):
    return tl.maximum(tl.abs(a), tl.abs(b))


@triton.jit
def _normalised(ar, ai, br, bi, cr, ci, dr, di):
    top = tl.maximum(_largest(ar, ai), _largest(br, bi))
    s = 1 / tl.maximum(top, tl.maximum(_largest(cr, ci), _largest(dr, di)))
    return ar * s, ai * s, br * s, bi * s, cr * s, ci * s, dr * s, di * s


@triton.jit
def _joined(ar, ai, br, bi, cr, ci, dr, di, er, ei, fr, fi, gr, gi, hr, hi):
    """The second map after the first."""
    pr, pi = _times(er, ei, ar, ai)
    qr, qi = _times(fr, fi, cr, ci)
    rr, ri = _times(er, ei, br, bi)
    sr, si = _times(fr, fi, dr, di)
    tr, ti = _times(gr, gi, ar, ai)
    ur, ui = _times(hr, hi, cr, ci)
    vr, vi = _times(gr, gi, br, bi)
    wr, wi = _times(hr, hi, dr, di)
    return _normalised(pr + qr, pi + qi, rr + sr, ri + si, tr + ur, ti + ui, vr + wr, vi + wi)


@triton.jit
def _joined_affine(ar, ai, br, bi, cr, ci, dr, di):
    """scale · x + total: the second after the first."""
    er, ei = _times(cr, ci, ar, ai)
    fr, fi = _times(cr, ci, br, bi)
    return er, ei, fr + dr, fi + di


@triton.jit
def _lanes(H, P, CHUNKS: tl.constexpr, HEADS: tl.constexpr):
    """Row of the batch, chunks (CHUNKS, 1) and heads (1, HEADS) of this program, and which of them are there."""
    tiles = tl.cdiv(P, CHUNKS)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    chunk = (tl.program_id(0) % tiles) * CHUNKS + tl.arange(0, CHUNKS)[:, None]
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[None, :]
    return row, chunk, head, (chunk < P) & (head < H)


@triton.jit
def _maps(U, W, Maps, size, N, H, P, w_row, w_site, SITES: tl.constexpr, CHUNKS: tl.constexpr, HEADS: tl.constexpr):
    row, chunk, head, inside = _lanes(H, P, CHUNKS, HEADS)
    cr = tl.zeros([CHUNKS, HEADS], U.dtype.element_ty)
    ar, ai, br, bi, ci, dr, di = cr + 1, cr, cr, cr, cr, cr + 1, cr
    for k in range(SITES):
        site = chunk * SITES + k
        there = inside & (site < N)
        u = tl.load(U + (row * N + site) * H + head, there, other=0.0)
        w = tl.load(W + row * w_row + site * w_site + head, there & (site > 0), other=0.0)
        er, ei = u * cr + ci - w * ar, u * ci - cr - w * ai
        fr, fi = u * dr + di - w * br, u * di - dr - w * bi
        ar, ai, br, bi, cr, ci, dr, di = cr, ci, dr, di, er, ei, fr, fi
        if k % 8 == 7:
            ar, ai, br, bi, cr, ci, dr, di = _normalised(ar, ai, br, bi, cr, ci, dr, di)
    ar, ai, br, bi, cr, ci, dr, di = _normalised(ar, ai, br, bi, cr, ci, dr, di)
    at = Maps + (row * P + chunk) * H + head
    tl.store(at, ar, inside)
    tl.store(at + size, ai, inside)
    tl.store(at + 2 * size, br, inside)
    tl.store(at + 3 * size, bi, inside)
    tl.store(at + 4 * size, cr, inside)
    tl.store(at + 5 * size, ci, inside)
    tl.store(at + 6 * size, dr, inside)
    tl.store(at + 7 * size, di, inside)


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
        ar, ai = tl.load(at, there, other=1.0), tl.load(at + size, there, other=0.0)
        br, bi = tl.load(at + 2 * size, there, other=0.0), tl.load(at + 3 * size, there, other=0.0)
        cr, ci = tl.load(at + 4 * size, there, other=0.0), tl.load(at + 5 * size, there, other=0.0)
        dr, di = tl.load(at + 6 * size, there, other=1.0), tl.load(at + 7 * size, there, other=0.0)
        ar, ai, br, bi, cr, ci, dr, di = tl.associative_scan((ar, ai, br, bi, cr, ci, dr, di), 0, _joined)
        pr, pi = _times(ar, ai, xr, xi)
        qr, qi = _times(cr, ci, xr, xi)
        qr, qi = _inverse(qr + dr, qi + di)
        pr, pi = _times(pr + br, pi + bi, qr, qi)
        to = Entering + 2 * ((row * P + chunk + 1) * H + head)
        tl.store(to, pr, chunk + 1 < P)
        tl.store(to + 1, pi, chunk + 1 < P)
        xr, xi = _last(pr, TILE), _last(pi, TILE)


@triton.jit
def _sites(U, W, Entering, Out, N, H, P, w_row, w_site, SITES: tl.constexpr, CHUNKS: tl.constexpr, HEADS: tl.constexpr):
    row, chunk, head, inside = _lanes(H, P, CHUNKS, HEADS)
    at = Entering + 2 * ((row * P + chunk) * H + head)
    xr, xi = tl.load(at, inside, other=0.0), tl.load(at + 1, inside, other=0.0)
    for k in range(SITES):
        site = chunk * SITES + k
        there = inside & (site < N)
        u = tl.load(U + (row * N + site) * H + head, there, other=0.0)
        w = tl.load(W + row * w_row + site * w_site + head, there & (site > 0), other=0.0)
        xr, xi = _inverse(u - w * xr, -1 - w * xi)
        to = Out + 2 * ((row * N + site) * H + head)
        tl.store(to, xr, there)
        tl.store(to + 1, xi, there)


@triton.jit
def _after(Rho, W, row, site, head, there, N, H, w_row, w_site):
    """w ρ² of a site: what the one before it is multiplied with."""
    at = Rho + 2 * ((row * N + site) * H + head)
    re, im = tl.load(at, there, other=0.0), tl.load(at + 1, there, other=0.0)
    w = tl.load(W + row * w_row + site * w_site + head, there, other=0.0)
    sr, si = _times(re, im, re, im)
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
        at = Grad + 2 * ((row * N + site) * H + head)
        br, bi = _times(fr, fi, br, bi)
        br, bi = br + tl.load(at, there, other=0.0), bi - tl.load(at + 1, there, other=0.0)
        ar, ai = _times(fr, fi, ar, ai)
    at = Sums + (row * P + chunk) * H + head
    tl.store(at, ar, inside)
    tl.store(at + size, ai, inside)
    tl.store(at + 2 * size, br, inside)
    tl.store(at + 3 * size, bi, inside)


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
        ar, ai = tl.load(at, there, other=1.0), tl.load(at + size, there, other=0.0)
        br, bi = tl.load(at + 2 * size, there, other=0.0), tl.load(at + 3 * size, there, other=0.0)
        ar, ai, br, bi = tl.associative_scan((ar, ai, br, bi), 0, _joined_affine)
        pr, pi = _times(ar, ai, xr, xi)
        pr, pi = pr + br, pi + bi
        to = Entering + 2 * ((row * P + chunk - 1) * H + head)
        tl.store(to, pr, chunk >= 1)
        tl.store(to + 1, pi, chunk >= 1)
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
    tr, ti = tl.load(at, inside, other=0.0), tl.load(at + 1, inside, other=0.0)
    for back in range(SITES):
        site = chunk * SITES + SITES - 1 - back
        there = inside & (site < N)
        fr, fi = _after(Rho, W, row, site + 1, head, inside & (site + 1 < N), N, H, w_row, w_site)
        one = (row * N + site) * H + head
        tr, ti = _times(fr, fi, tr, ti)
        tr = tr + tl.load(Grad + 2 * one, there, other=0.0)
        ti = ti - tl.load(Grad + 2 * one + 1, there, other=0.0)
        re, im = tl.load(Rho + 2 * one, there, other=0.0), tl.load(Rho + 2 * one + 1, there, other=0.0)
        sr, si = _times(re, im, re, im)
        gr, gi = _times(sr, si, tr, ti)
        tl.store(OfU + one, -gr, there)
        if OF_W:
            before = there & (site > 0)
            pr = tl.load(Rho + 2 * (one - H), before, other=0.0)
            pi = tl.load(Rho + 2 * (one - H) + 1, before, other=0.0)
            tl.store(OfW + one, gr * pr - gi * pi, there)


def resolvent(u: Tensor, w: Tensor) -> Tensor:
    """(B, N, H, 2) of (B, N, H) `u`; `w` may be expanded along the batch and the sites."""
    run = _Run(u, w)
    maps, entering = u.new_empty(8, u.shape[0], run.chunks, u.shape[2]), run.entering()
    out = u.new_empty(*u.shape, 2)
    u = u.contiguous()
    _maps[run.grid](u, run.w, maps, run.maps, *run.sizes, *run.strides, **run.tile)
    _enter[run.rows](maps, entering, run.maps, u.shape[2], run.chunks, TILE=run.joined)
    _sites[run.grid](u, run.w, entering, out, *run.sizes, *run.strides, **run.tile)
    return out


def gradients(grad: Tensor, w: Tensor, rho: Tensor, *, of_w: bool) -> tuple[Tensor, Tensor | None]:
    """With respect to `u`, and to `w` where it is wanted, from that of ρ; (B, N, H) each."""
    run = _Run(rho[..., 0], w)
    sums, entering = rho.new_empty(4, rho.shape[0], run.chunks, rho.shape[2]), run.entering()
    of_u = rho.new_empty(rho.shape[:3])
    of_links = torch.empty_like(of_u) if of_w else None
    grad = grad.contiguous()
    _affine[run.grid](rho, run.w, grad, sums, run.maps, *run.sizes, *run.strides, **run.tile)
    _enter_sums[run.rows](sums, entering, run.maps, rho.shape[2], run.chunks, TILE=run.joined)
    _gradient[run.grid](
        rho, run.w, grad, entering, of_u, of_u if of_links is None else of_links, *run.sizes, *run.strides,
        OF_W=of_w, **run.tile
    )  # fmt: skip
    return of_u, of_links


class _Run:
    """How a call is cut: lanes are heads of some chunks."""

    def __init__(self, u: Tensor, w: Tensor) -> None:
        batch, n, heads = u.shape
        self.w = w if w.stride(2) == 1 else w.contiguous()
        self.strides = self.w.stride()[:2]
        self.chunks = triton.cdiv(n, _SITES)
        self.sizes = (n, heads, self.chunks)
        self.maps = batch * self.chunks * heads
        wide = min(triton.next_power_of_2(heads), 32)
        self.tile = {"SITES": _SITES, "CHUNKS": _LANES // wide, "HEADS": wide}
        self.grid = (batch * triton.cdiv(self.chunks, self.tile["CHUNKS"]), triton.cdiv(heads, wide))
        self.rows = (batch, heads)
        self.joined = max(min(triton.next_power_of_2(self.chunks), _MOST_CHUNKS), 2)
        self._entering = u.new_empty, (batch, self.chunks, heads, 2)

    def entering(self) -> Tensor:
        make, shape = self._entering
        return make(shape)
