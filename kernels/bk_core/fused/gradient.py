"""The gradient: two recursions of first order along each chain, cut and joined as the values' are."""

# Triton joins tuples by + alone, and a name of one may grow from site to site.
# ruff: noqa: RUF005, RUF059
# mypy: disable-error-code="assignment,valid-type"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.bk_core.chain import Chain
from kernels.bk_core.fused.chunks import (
    at_chunk,
    at_segment,
    chain_of,
    exchange,
    fp64,
    neighbours,
    packed,
    place,
    unpacked_pairs,
)
from kernels.bk_core.fused.maps import composed, inverse, load_pair, store_pair, times
from kernels.bk_core.fused.segments import Run, last_of

__all__ = ["bk_core_backward"]


@triton.jit
def _affine(d, im, w, gr, gi, sr, si, tr, ti, SITES: tl.constexpr):
    """What each chunk makes of the sums that enter it, from both sides: scale and total."""
    zero = tl.zeros_like(im)
    ar, ai, br, bi = zero + 1.0, zero, zero, zero
    for k in tl.static_range(0, SITES):
        ir, ii = inverse(d[k] - sr, im - si)
        sr, si = w[k] * ir, w[k] * ii
        fr, fi = times(sr, si, ir, ii)
        br, bi = times(fr, fi, br + gr[k], bi - gi[k])
        ar, ai = times(fr, fi, ar, ai)
    cr, ci, er, ei = zero + 1.0, zero, zero, zero
    for k in tl.static_range(SITES - 1, -1, -1):
        tr, ti = inverse(d[k] - w[k] * tr, im - w[k] * ti)
        fr, fi = times(tr, ti, tr, ti)
        er, ei = times(fr, fi, w[k] * er + gr[k], w[k] * ei - gi[k])
        cr, ci = times(fr, fi, w[k] * cr, w[k] * ci)
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
    segment, row, site, inside = place(batch, n, segments, ROWS, CHUNKS, SITES)
    d, im, w = chain_of(
        V, Links, Energies, coupling, real, imag, batch, n, segments, links_stride, energies_stride,
        LINKS, ENERGIES, FULL, ROWS, CHUNKS, SITES
    )  # fmt: skip
    sr, si, tr, ti = exchange(d, im, w, Entering, row, segment, batch, segments, True, STEPS, SITES)
    gr, gi = unpacked_pairs(Grad, row, n, site, inside, ROWS, CHUNKS, SITES)
    ar, ai, br, bi, cr, ci, er, ei = _affine(d, im, w, gr, gi, sr, si, tr, ti, SITES)
    ar, ai, br, bi = tl.associative_scan((ar, ai, br, bi), 1, composed)
    cr, ci, er, ei = tl.associative_scan((cr, ci, er, ei), 1, composed, reverse=True)
    there = row < batch
    at = Totals + 4 * (row * segments + segment)
    store_pair(at, 1, there, at_chunk(ar, CHUNKS - 1), at_chunk(ai, CHUNKS - 1))
    store_pair(at + 2, 1, there, at_chunk(br, CHUNKS - 1), at_chunk(bi, CHUNKS - 1))
    at = Totals + 4 * ((batch + row) * segments + segment)
    store_pair(at, 1, there, at_chunk(cr, 0), at_chunk(ci, 0))
    store_pair(at + 2, 1, there, at_chunk(er, 0), at_chunk(ei, 0))


@triton.jit
def _carry_sums(Totals, Sums, batch, segments, TILE: tl.constexpr):
    """The same of the sums, which each segment makes an affine function of."""
    row, leftward = tl.program_id(0).to(tl.int64), tl.program_id(1) == 1
    zero = tl.zeros([1], Sums.dtype.element_ty)
    xr, xi = zero, zero
    to = Sums + 2 * (tl.program_id(1) * batch + row) * segments
    first = tl.where(leftward, segments - 1, 0) + tl.arange(0, 1)
    store_pair(to + 2 * first, 1, first >= 0, zero, zero)
    for start in range(0, segments, TILE):
        i = start + tl.arange(0, TILE)
        s, after = tl.where(leftward, segments - 1 - i, i), tl.where(leftward, segments - 2 - i, i + 1)
        there, next_there = i < segments, i + 1 < segments
        at = Totals + 4 * ((tl.program_id(1) * batch + row) * segments + s)
        ar, ai = load_pair(at, 1, there, 1.0)
        br, bi = load_pair(at + 2, 1, there, 0.0)
        ar, ai, br, bi = tl.associative_scan((ar, ai, br, bi), 0, composed)
        yr, yi = times(ar, ai, xr, xi)
        yr, yi = yr + br, yi + bi
        store_pair(to + 2 * after, 1, next_there, yr, yi)
        xr, xi = last_of(yr, TILE), last_of(yi, TILE)


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
    segment, row, site, inside = place(batch, n, segments, ROWS, CHUNKS, SITES)
    d, im, w = chain_of(
        V, Links, Energies, coupling, real, imag, batch, n, segments, links_stride, energies_stride,
        LINKS, ENERGIES, FULL, ROWS, CHUNKS, SITES
    )  # fmt: skip
    sr, si, tr, ti = exchange(d, im, w, Entering, row, segment, batch, segments, SEGMENTED, STEPS, SITES)
    gr, gi = unpacked_pairs(Grad, row, n, site, inside, ROWS, CHUNKS, SITES)
    ar, ai, br, bi, cr, ci, er, ei = _affine(d, im, w, gr, gi, sr, si, tr, ti, SITES)
    zero = tl.sum(im * 0, 1, keep_dims=True)
    xr, xi = at_segment(Sums, row, segment, batch, segments, 0, SEGMENTED, zero)
    ar, ai, br, bi = tl.associative_scan((ar, ai, br, bi), 1, composed)
    pr, pi = times(ar, ai, xr, xi)
    ar, ai = neighbours(pr + br, 1, xr), neighbours(pi + bi, 1, xi)
    yr, yi = at_segment(Sums, row, segment, batch, segments, 1, SEGMENTED, zero)
    cr, ci, er, ei = tl.associative_scan((cr, ci, er, ei), 1, composed, reverse=True)
    pr, pi = times(cr, ci, yr, yi)
    br, bi = neighbours(pr + er, -1, yr), neighbours(pi + ei, -1, yi)
    above_r, above_i, sum_r, sum_i = (d[0] - sr,), (im - si,), (ar + gr[0],), (ai - gi[0],)
    for k in tl.static_range(1, SITES):
        ir, ii = inverse(above_r[k - 1], above_i[k - 1])
        sr, si = w[k - 1] * ir, w[k - 1] * ii
        fr, fi = times(sr, si, ir, ii)
        ar, ai = times(fr, fi, sum_r[k - 1], sum_i[k - 1])
        above_r, above_i = above_r + (d[k] - sr,), above_i + (im - si,)
        sum_r, sum_i = sum_r + (ar + gr[k],), sum_i + (ai - gi[k],)
    energy_r, energy_i = tl.zeros_like(im), tl.zeros_like(im)
    first = segment * CHUNKS * SITES + tl.arange(0, CHUNKS)[None, :] * SITES
    for k in tl.static_range(SITES - 1, -1, -1):
        sr, si = w[k] * tr, w[k] * ti
        rr, ri = w[k] * br, w[k] * bi
        hr, hi = inverse(above_r[k] - sr, above_i[k] - si)
        hr, hi = times(hr, hi, hr, hi)
        qr, qi = times(hr, hi, sum_r[k] + rr, sum_i[k] + ri)
        if OF_LINKS:
            ur, ui = times(sum_r[k], sum_i[k], tr, ti)
            vr, vi = times(br, bi, above_r[k], above_i[k])
            lr, li = times(hr, hi, ur + vr, ui + vi)
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
        tr, ti = inverse(d[k] - sr, im - si)
        fr, fi = times(tr, ti, tr, ti)
        br, bi = times(fr, fi, rr + gr[k], ri - gi[k])
    at = row[:, None, None] * n + site
    tl.store(OfV + at, packed(of_v, ROWS, CHUNKS, SITES), inside)
    if OF_LINKS:
        tl.store(OfLinks + at, packed(of_links, ROWS, CHUNKS, SITES), inside)
    if OF_ENERGY:
        to = OfEnergy + 2 * (row * segments + segment)
        store_pair(to, 1, row < batch, tl.sum(energy_r, 1), -tl.sum(energy_i, 1))


def bk_core_backward(
    grad: Tensor, chain: Chain, of_links: bool = True, of_energy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference's."""
    run = Run(chain)
    grads = torch.view_as_real(grad.resolve_conj().contiguous())
    entering = run.entering()
    sums = _sums(run, entering, grads)
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


def _sums(run: Run, entering: Tensor, grad: Tensor) -> Tensor:
    """(2, batch, segments, 2): the sums that enter each segment; as `Run.entering`."""
    if run.segments == 1:
        return run.v
    totals = run.new(2, run.batch, run.segments, 4)
    run(_totals, entering, grad, totals, STEPS=run.steps)
    return run.carried(_carry_sums, totals)
