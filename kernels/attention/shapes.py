"""How Triton's programs cut the work: tile shapes, warps and pipeline depth by width and dtype, as measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Shape", "forward_shape", "gradient_shapes"]


@dataclass(frozen=True)
class Shape:
    """`block_m` queries against `block_n` keys at a time; `stages` tiles on their way while one is worked on."""

    block_m: int
    block_n: int
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """As the kernels take them."""
        return {
            "BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "STAGES": self.stages,
            "num_warps": self.warps, "num_stages": self.stages,
        }  # fmt: skip


def forward_shape(d: int, dv: int, dtype: torch.dtype, causal: bool) -> Shape:
    wide = max(d, dv)
    if dtype == torch.float32:
        return Shape(64, 32, 4, 2) if wide > 64 else Shape(64, 64, 4, 2)
    if wide <= 64:
        return Shape(128, 128, 8, 2)
    return Shape(128, 128, 8, 2) if wide <= 128 else Shape(128, 64, 8, 2)


def gradient_shapes(d: int, dv: int, dtype: torch.dtype) -> tuple[Shape, Shape]:
    """For keys and values, whose tile stays while queries pass; and for queries, the other way round."""
    wide = max(d, dv)
    if dtype == torch.float32:
        return (Shape(32, 32, 4, 1), Shape(32, 32, 4, 1)) if wide > 64 else (Shape(64, 64, 4, 2), Shape(64, 64, 4, 2))
    if wide <= 128:
        return Shape(64, 128, 8, 2), Shape(128, 64, 8, 2)
    return Shape(32, 64, 8, 2), Shape(64, 64, 8, 2)
