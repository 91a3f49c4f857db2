"""The CUDA C++ form: chain.cu, compiled by NVRTC when it first runs, and launched on the current stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.bk_core.chain import Chain

__all__ = ["bk_core", "bk_core_backward"]

_SITES = {torch.float32: 16, torch.float64: 8}
"""Of a thread: what its registers hold."""
_THREADS = 128
_BLOCKS = 3
"""That are to run on one multiprocessor at a time: what the compiler gives registers for."""


@dataclass(frozen=True)
class _Shape:
    """How chains lie in blocks: sites a thread, threads a segment, rows a block."""

    sites: int
    chunks: int
    rows: int

    @classmethod
    def of(cls, v: Tensor) -> _Shape:
        sites = _SITES[v.dtype]
        wanted = -(-v.shape[1] // sites)
        chunks = min(1 << (wanted - 1).bit_length(), _THREADS)
        return cls(sites, chunks, _THREADS // chunks)

    @property
    def segment(self) -> int:
        return self.sites * self.chunks


def bk_core(chain: Chain) -> Tensor:
    run = _Run(chain)
    entering = run.entering()
    out = chain.potential.new_empty(chain.potential.shape, dtype=chain.potential.dtype.to_complex())
    run("diagonal", entering, out)
    return out


def bk_core_backward(
    grad: Tensor, chain: Chain, of_links: bool = True, of_energy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference's."""
    run = _Run(chain, of_links, of_energy)
    v, batch = chain.potential, chain.potential.shape[0]
    grad = grad.resolve_conj().contiguous()
    entering = run.entering()
    sums = run.sums(grad, entering)
    potential = torch.empty_like(run.v)
    links = torch.empty_like(run.v) if of_links else v.new_empty(0, 1)
    energy = v.new_empty((batch, run.segments) if of_energy else (0, 1), dtype=grad.dtype)
    run("gradient", grad, entering, sums, potential, links, energy)
    return potential, links[:, :-1], energy.sum(1)


class _Run:
    """The launches for one chain."""

    def __init__(self, chain: Chain, of_links: bool = False, of_energy: bool = False) -> None:
        v = self.v = chain.potential.contiguous()
        self.batch, self.n = v.shape
        shape = _Shape.of(v)
        self.segments = -(-self.n // shape.segment)
        self.rows = shape.rows
        links = chain.coupling.contiguous() if isinstance(chain.coupling, Tensor) else v
        energies = chain.energy.contiguous() if isinstance(chain.energy, Tensor) else v
        coupled, number = isinstance(chain.coupling, Tensor), chain.energy
        self.options = _options(
            v.dtype, shape, coupled, not coupled and self.n % shape.segment == 0, of_links, of_energy
        )
        links_stride = self.n - 1 if links.shape[0] > 1 else 0
        energies_stride = int(energies.shape[0] > 1) if isinstance(number, Tensor) else -1
        real, imag = (0.0, 0.0) if isinstance(number, Tensor) else (number.real, number.imag)
        coupling = 0.0 if isinstance(chain.coupling, Tensor) else float(chain.coupling)
        self.chain = [v, links, energies, links_stride, energies_stride, coupling, real, imag]
        self.chain += [self.batch, self.n, self.segments]
        self.threads = shape.rows * shape.chunks

    def __call__(self, name: str, *arguments: Any) -> None:
        grid = -(-self.batch // self.rows) * self.segments
        _kernel(name, self.options, self.v.device.index)(
            grid=(grid, 1, 1), block=(self.threads, 1, 1), args=[*self.chain, *arguments]
        )

    def entering(self) -> Tensor:
        """(2, batch, segments): what enters each segment; where a row is one segment, something that nobody reads."""
        if self.segments == 1:
            return self.v
        maps, last = self._complex(self.batch, self.segments, 4), self.v.new_empty(self.batch, self.segments)
        self("compose", maps, last)
        return self._carried("carry", maps, last)

    def sums(self, grad: Tensor, entering: Tensor) -> Tensor:
        if self.segments == 1:
            return self.v
        totals = self._complex(2, self.batch, self.segments, 2)
        self("totals", grad, entering, totals)
        return self._carried("carry_sums", totals)

    def _carried(self, name: str, *maps: Tensor) -> Tensor:
        entering = self._complex(2, self.batch, self.segments)
        _kernel(name, self.options, self.v.device.index)(
            grid=(2 * self.batch, 1, 1), block=(64, 1, 1), args=[*maps, entering, self.batch, self.segments]
        )
        return entering

    def _complex(self, *shape: int) -> Tensor:
        return self.v.new_empty(shape, dtype=self.v.dtype.to_complex())


def _options(
    dtype: torch.dtype, shape: _Shape, links: bool, full: bool, of_links: bool, of_energy: bool
) -> tuple[str, ...]:
    values = {
        "REAL": "float" if dtype == torch.float32 else "double",
        "SITES": shape.sites,
        "CHUNKS": shape.chunks,
        "ROWS": shape.rows,
        "LINKS": int(links),
        "FULL": int(full),
        "BLOCKS": _BLOCKS,
        "OF_LINKS": int(of_links),
        "OF_ENERGY": int(of_energy),
    }
    return tuple(f"-D{name}={value}" for name, value in values.items())


@cache
def _kernel(name: str, options: tuple[str, ...], device: int) -> Any:
    source = Path(__file__).with_name("chain.cu").read_text(encoding="utf-8")
    with torch.cuda.device(device):
        return torch.cuda._compile_kernel(source, name, nvcc_options=list(options))
