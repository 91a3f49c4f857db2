"""Sizes as plain numbers, also while TorchScript is traced."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["length_of", "tracing"]


def tracing() -> bool:
    """Whether TorchScript is being traced: sizes are tensors then."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def length_of(x: Tensor) -> int:
    """The second size of (B, L, ...). A trace then holds for this length alone, and for every batch."""
    if not tracing():
        return x.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # it is meant so
        return int(x.shape[1])
