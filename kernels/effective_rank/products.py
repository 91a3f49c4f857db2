"""Effective ranks by products of matrices alone, which batch well on a GPU where decompositions do not."""

from __future__ import annotations

from torch import Tensor

from kernels.effective_rank.entropy import entropy
from kernels.effective_rank.participation import participation
from kernels.effective_rank.stable import stable

__all__ = ["effective_rank"]

_KINDS = {"participation": participation, "entropy": entropy, "stable": stable}


def effective_rank(w: Tensor, kind: str) -> Tensor:
    return _KINDS[kind](w)
