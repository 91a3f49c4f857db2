"""The CUDA C++ form: chain.cu, compiled by NVRTC when it first runs, and launched on the current stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.bk_core.chain import Chain
from kernels.nvrtc import compiled

__all__ = ["bk_core", "bk_core_backward"]

_SOURCE = Path(__file__).with_name("chain.cu")
_SHORT_ROWS_BYTES = 512
"""Of a block, a real number a thread: rows shorter than that share one."""
_TILE = 64
"""Threads of a block that hands on from segment to segment, as in chain.cu."""


@dataclass(frozen=True)
class _Layout:
    """How chains lie in blocks: sites a thread, threads a block, and the longest row that one block takes whole.

    `blocks` are to run on one multiprocessor at a time: that is what the compiler gives registers for.
    """

    sites: int
    threads: int
    blocks: int
    whole: int


_VALUES = {torch.float32: _Layout(16, 128, 5, 4096), torch.float64: _Layout(8, 128, 4, 1024)}
_GRADIENT = {torch.float32: _Layout(8, 256, 4, 2048), torch.float64: _Layout(8, 128, 3, 1024)}
"""Measured on an H100 at (8192, 2048), float32: values 148 µs (172 with 3 blocks, 174 with 8 sites), gradient 269 µs
(298 with 16 sites and 3 blocks, 445 with 5, which spill)."""


def bk_core(chain: Chain) -> Tensor:
    run = _Run(chain, _VALUES[chain.potential.dtype])
    entering = run.entering()
    out = run.new_complex(run.batch, run.n)
    run("diagonal", entering, out)
    return out


def bk_core_backward(
    grad: Tensor, chain: Chain, of_links: bool = True, of_energy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference's."""
    run = _Run(chain, _GRADIENT[chain.potential.dtype], of_links, of_energy)
    grad = grad.resolve_conj().contiguous()
    entering = run.entering()
    sums = run.sums(grad, entering)
    potential = torch.empty_like(run.v)
    links = torch.empty_like(run.v) if of_links else run.v.new_empty(0, 1)
    energy = run.new_complex(run.batch, run.segments) if of_energy else run.new_complex(0, 1)
    run("gradient", grad, entering, sums, potential, links, energy)
    return potential, links[:, :-1], energy.sum(1)


class _Run:
    """The launches for one chain."""

    def __init__(self, chain: Chain, layout: _Layout, of_links: bool = False, of_energy: bool = False) -> None:
        v = self.v = chain.potential.contiguous()
        self.batch, self.n = v.shape
        links = chain.coupling if isinstance(chain.coupling, Tensor) else None
        energies = chain.energy if isinstance(chain.energy, Tensor) else None
        self.shape = _shape(layout, self.n, v.dtype, links is not None, of_links, of_energy)
        self.segments = self.shape.segments
        number = 0j if isinstance(chain.energy, Tensor) else chain.energy
        self.chain = (
            v,
            v if links is None else links.contiguous(),
            v if energies is None else energies.resolve_conj().contiguous(),
            self.n - 1 if links is not None and links.shape[0] > 1 else 0,
            -1 if energies is None else int(energies.shape[0] > 1),
            0.0 if isinstance(chain.coupling, Tensor) else float(chain.coupling),
            number.real,
            number.imag,
            self.batch,
            self.n,
            self.segments,
        )

    def __call__(self, name: str, *arguments: Tensor) -> None:
        grid = -(-self.batch // self.shape.rows) * self.segments
        self._launch(name, grid, self.shape.threads, *self.chain, *arguments)

    def entering(self) -> Tensor:
        """(2, batch, segments): what enters each segment; where a row is one segment, something that nobody reads."""
        if self.segments == 1:
            return self.v
        maps, last = self.new_complex(self.batch, self.segments, 4), self.v.new_empty(self.batch, self.segments)
        self("compose", maps, last)
        return self._carried("carry", maps, last)

    def sums(self, grad: Tensor, entering: Tensor) -> Tensor:
        """The same of the gradient's sums."""
        if self.segments == 1:
            return self.v
        totals = self.new_complex(2, self.batch, self.segments, 2)
        self("totals", grad, entering, totals)
        return self._carried("carry_sums", totals)

    def _carried(self, name: str, *maps: Tensor) -> Tensor:
        entering = self.new_complex(2, self.batch, self.segments)
        self._launch(name, 2 * self.batch, _TILE, *maps, entering, self.batch, self.segments)
        return entering

    def _launch(self, name: str, grid: int, threads: int, *arguments: Any) -> None:
        compiled(_SOURCE, name, self.shape.options, self.v.device.index)(grid, threads, arguments)

    def new_complex(self, *shape: int) -> Tensor:
        return self.v.new_empty(shape, dtype=self.v.dtype.to_complex())


@dataclass(frozen=True)
class _Shape:
    segments: int
    rows: int
    threads: int
    options: tuple[str, ...]


@lru_cache(maxsize=256)
def _shape(layout: _Layout, n: int, dtype: torch.dtype, links: bool, of_links: bool, of_energy: bool) -> _Shape:
    chunks = 1 << (-(-n // layout.sites) - 1).bit_length()
    if n > layout.whole:
        chunks = layout.threads
    threads = max(chunks, min(layout.threads, _SHORT_ROWS_BYTES // dtype.itemsize))
    segment = layout.sites * chunks
    values = {
        "REAL": "float" if dtype == torch.float32 else "double",
        "SITES": layout.sites,
        "CHUNKS": chunks,
        "ROWS": threads // chunks,
        "BLOCKS": max(layout.blocks * layout.threads // threads, 1),
        "LINKS": int(links),
        "FULL": int(not links and n % segment == 0),
        "OF_LINKS": int(of_links),
        "OF_ENERGY": int(of_energy),
    }
    options = tuple(f"-D{name}={value}" for name, value in values.items())
    return _Shape(-(-n // segment), threads // chunks, threads, options)
