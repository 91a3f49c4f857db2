"""Rows longer than a program takes are cut into segments, and what enters each of these is found first."""

# mypy: disable-error-code="valid-type"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.bk_core.chain import Chain
from kernels.bk_core.fused.chunks import at_chunk, chain_of, fp64, minors, place
from kernels.bk_core.fused.maps import joined, load_pair, store_map, store_pair, through

__all__ = ["Run", "last_of"]

_SITES = {torch.float32: 16, torch.float64: 8}
"""Of a thread: what its registers hold."""
_THREADS = 32
"""One warp a program: scans across warps take more registers than there are (8 ms instead of 0.3 at (8192, 2048))."""
_TILE = 32
"""Segments that are joined at a time."""


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
    segment, row, _, _ = place(batch, n, segments, ROWS, CHUNKS, SITES)
    d, im, w = chain_of(
        V, Links, Energies, coupling, real, imag, batch, n, segments, links_stride, energies_stride,
        LINKS, ENERGIES, FULL, ROWS, CHUNKS, SITES
    )  # fmt: skip
    a, b, c, e, f, g, h, i = minors(d, im, w, STEPS, SITES)
    # a scan, whose order is that of the chunks; that of tl.reduce is not, and minors do not commute
    a, b, c, e, f, g, h, i, _ = tl.associative_scan((a, b, c, e, f, g, h, i, w[SITES - 1]), 1, joined)
    a, b, c, e = at_chunk(a, CHUNKS - 1), at_chunk(b, CHUNKS - 1), at_chunk(c, CHUNKS - 1), at_chunk(e, CHUNKS - 1)
    f, g, h, i = at_chunk(f, CHUNKS - 1), at_chunk(g, CHUNKS - 1), at_chunk(h, CHUNKS - 1), at_chunk(i, CHUNKS - 1)
    last = at_chunk(w[SITES - 1], CHUNKS - 1)
    at = row * segments + segment
    there = row < batch
    store_map(Maps + 8 * at, 1, there, a, b, c, e, f, g, h, i)
    tl.store(Last + at, last, there)


@triton.jit
def last_of(x, TILE: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, TILE) == TILE - 1, x, 0.0), 0, keep_dims=True)


@triton.jit
def _carry(Maps, Last, Entering, batch, segments, TILE: tl.constexpr):
    """What enters each segment, from its minors; a program goes along a row one way, TILE segments at a time."""
    row, leftward = tl.program_id(0).to(tl.int64), tl.program_id(1) == 1
    zero = tl.zeros([1], Entering.dtype.element_ty)
    xr, xi = zero, zero
    to = Entering + 2 * (tl.program_id(1) * batch + row) * segments
    first = tl.where(leftward, segments - 1, 0) + tl.arange(0, 1)
    store_pair(to + 2 * first, 1, first >= 0, zero, zero)
    for start in range(0, segments, TILE):
        i = start + tl.arange(0, TILE)
        s, after = tl.where(leftward, segments - 1 - i, i), tl.where(leftward, segments - 2 - i, i + 1)
        there, next_there = i < segments, i + 1 < segments
        at = Maps + 8 * (row * segments + s)
        a, b = load_pair(at, 1, there, 1.0)
        c, e = load_pair(tl.where(leftward, at + 4, at + 2), 1, there, 0.0)
        f, g = load_pair(tl.where(leftward, at + 2, at + 4), 1, there, 0.0)
        h, j = load_pair(at + 6, 1, there, 0.0)
        w = tl.load(Last + row * segments + tl.where(leftward, after, s), next_there, other=0.0)
        a, b, c, e, f, g, h, j, w = tl.associative_scan((a, b, c, e, f, g, h, j, w), 0, joined)
        yr, yi = through(f, g, h, j, a, b, c, e, xr, xi)
        store_pair(to + 2 * after, 1, next_there, tl.where(leftward, yr, w * yr), tl.where(leftward, yi, w * yi))
        xr, xi = last_of(w * yr, TILE), last_of(w * yi, TILE)


class Run:
    """The launches for one chain: `segments` a row, `rows` of them a program."""

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
        maps, last = self.new(self.batch, self.segments, 8), self.new(self.batch, self.segments)
        self(_compose, maps, last, STEPS=self.steps)
        return self.carried(_carry, maps, last)

    def carried(self, kernel: Any, *maps: Tensor) -> Tensor:
        """(2, batch, segments, 2): what enters each segment, by a kernel that goes along rows both ways."""
        entering = self.new(2, self.batch, self.segments, 2)
        kernel[(self.batch, 2)](*maps, entering, self.batch, self.segments, TILE=_TILE, num_warps=1)
        return entering

    def new(self, *shape: int) -> Tensor:
        return self.v.new_empty(shape)
