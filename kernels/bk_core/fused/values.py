"""The diagonal itself: from what enters a chunk, steps through its sites from both ends."""

# Triton joins tuples by + alone, and a name of one may grow from site to site.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,valid-type"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.bk_core.chain import Chain
from kernels.bk_core.fused.chunks import chain_of, exchange, fp64, packed, place
from kernels.bk_core.fused.maps import inverse
from kernels.bk_core.fused.segments import Run

__all__ = ["bk_core"]


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
    segment, row, site, inside = place(batch, n, segments, ROWS, CHUNKS, SITES)
    d, im, w = chain_of(
        V, Links, Energies, coupling, real, imag, batch, n, segments, links_stride, energies_stride,
        LINKS, ENERGIES, FULL, ROWS, CHUNKS, SITES
    )  # fmt: skip
    sr, si, tr, ti = exchange(d, im, w, Entering, row, segment, batch, segments, SEGMENTED, STEPS, SITES)
    above_r, above_i = (d[0] - sr,), (im - si,)
    for k in tl.static_range(1, SITES):
        ir, ii = inverse(above_r[k - 1], above_i[k - 1])
        above_r, above_i = above_r + (d[k] - w[k - 1] * ir,), above_i + (im - w[k - 1] * ii,)
    last: tl.constexpr = SITES - 1
    sr, si = w[last] * tr, w[last] * ti
    gr, gi = inverse(above_r[last] - sr, above_i[last] - si)
    out_r, out_i = (gr,), (gi,)
    for k in tl.static_range(SITES - 2, -1, -1):
        tr, ti = inverse(d[k + 1] - sr, im - si)
        sr, si = w[k] * tr, w[k] * ti
        gr, gi = inverse(above_r[k] - sr, above_i[k] - si)
        out_r, out_i = (gr,) + out_r, (gi,) + out_i
    both = tl.join(packed(out_r, ROWS, CHUNKS, SITES), packed(out_i, ROWS, CHUNKS, SITES))
    at = 2 * (row[:, None, None, None] * n + site[:, :, :, None]) + tl.arange(0, 2)[None, None, None, :]
    tl.store(Out + at, both, inside[:, :, :, None])


def bk_core(chain: Chain) -> Tensor:
    run = Run(chain)
    out = chain.potential.new_empty(chain.potential.shape, dtype=chain.potential.dtype.to_complex())
    run(_diagonal, run.entering(), torch.view_as_real(out), STEPS=run.steps, SEGMENTED=run.segments > 1)
    return out
