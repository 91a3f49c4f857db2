"""How Triton's programs cut the work: tile shapes, warps and pipeline depth by width and dtype, as measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Shape", "forward_shape", "gradient_shapes", "shared_bytes"]


@dataclass(frozen=True)
class Shape:
    """`block_m` queries against `block_n` keys at a time; `stages` tiles on their way while one is worked on."""

    block_m: int
    block_n: int
    warps: int
    stages: int
    registers: int | None = None
    """The most that a thread may use, so that more programs share a multiprocessor."""

    def options(self) -> dict[str, int | None]:
        """As the kernels take them."""
        return {
            "BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "STAGES": self.stages,
            "num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers,
        }  # fmt: skip


def forward_shape(d: int, dv: int, dtype: torch.dtype) -> Shape:
    """Two or three programs of four warps share a multiprocessor: one multiplies while another exponentiates."""
    wide = max(d, dv)
    if dtype == torch.float32:
        return Shape(64, 32, 4, 2) if wide > 64 else Shape(64, 64, 4, 2)
    if wide > 128:
        return Shape(128, 64, 8, 2)
    return Shape(64, 64, 4, 2) if wide > 64 else Shape(64, 64, 4, 3, registers=168)


def gradient_shapes(d: int, dv: int, dtype: torch.dtype) -> tuple[Shape, Shape]:
    """For keys and values, whose tile stays while queries pass; and for queries, the other way round."""
    wide = max(d, dv)
    if dtype == torch.float32:
        return (Shape(32, 32, 4, 1), Shape(32, 32, 4, 1)) if wide > 64 else (Shape(64, 64, 4, 2), Shape(64, 64, 4, 2))
    if wide > 128:
        return Shape(32, 64, 8, 2), Shape(64, 64, 8, 2)
    return (Shape(64, 64, 4, 2), Shape(64, 64, 4, 2)) if wide > 64 else (Shape(64, 64, 4, 3), Shape(128, 64, 8, 3))


def shared_bytes(d: int, dv: int, dtype: torch.dtype) -> int:
    """The most that a program of any of the three kernels keeps in shared memory: tiles that stay, and that pass."""
    forward = forward_shape(d, dv, dtype)
    keys, queries = gradient_shapes(d, dv, dtype)
    wide = max(d, dv)  # the tiles' of keys, and of values
    both = 2 * wide
    elements = max(
        forward.block_m * wide + forward.stages * forward.block_n * both,
        (keys.block_n + keys.stages * keys.block_m) * both,
        (queries.block_m + queries.stages * queries.block_n) * both,
    )
    return elements * dtype.itemsize + _BESIDE


_BESIDE = 8 * 1024
"""Moments of places, barriers, and what reductions pass on."""
