"""The Triton form: a thread keeps a chunk of sites in registers, and chunks are joined by a scan."""

from __future__ import annotations

from kernels.bk_core.fused.gradient import bk_core_backward
from kernels.bk_core.fused.values import bk_core

__all__ = ["bk_core", "bk_core_backward"]
