"""Many components in few calls: matrices of equal heads laid side by side, and one attention for all of them.

Newborns and those who fade are computed apart and added behind the others. So a birth, and the removal of a component
whose gate is 0, leave every product of the others as it was: the sum gains or loses a term of zeros, and no bit moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.organism.attending import Matrices, Sight, combined_heads
from toolkit.organism.protocols import Kernel
from toolkit.organism.pseudopod import Pseudopod, Stage

__all__ = ["contribution", "joined", "settled_groups"]


def contribution(
    pods: Sequence[Pseudopod], latent: Tensor, stimulus: Tensor, kernel: Kernel, sight: Sight
) -> Tensor | None:
    """(B, M, D), what `pods` (sorted by id) add; None where there are none. Those on other devices compute there."""
    total = None
    for group in settled_groups(pods):
        w = joined(group)
        total = _plus(total, _answer(latent, stimulus, w, kernel, sight))
    for pod in pods:
        if pod.stage is not Stage.SETTLED:
            w = pod.matrices()._replace(out=pod.gate * pod.out.matrix())
            total = _plus(total, _answer(latent, stimulus, w, kernel, sight))
    return total


def settled_groups(pods: Sequence[Pseudopod]) -> list[list[Pseudopod]]:
    """The settled, those with equal heads on one device together."""
    settled = [pod for pod in pods if pod.stage is Stage.SETTLED]
    if len({_kind(pod) for pod in settled}) < 2:
        return [settled] if settled else []
    return [list(group) for _, group in groupby(sorted(settled, key=_kind), key=_kind)]


def joined(pods: Sequence[Pseudopod]) -> Matrices:
    """Their matrices side by side, each output matrix times its gate."""
    each = [pod.matrices() for pod in pods]
    out = torch.cat([pod.gate * w.out for pod, w in zip(pods, each, strict=True)], 1)
    thirds = [w.biases.chunk(3) for w in each if w.biases is not None]
    return Matrices(
        torch.cat([w.query for w in each]), torch.cat([w.key for w in each]), torch.cat([w.value for w in each]), out,
        biases=torch.cat([third[k] for k in range(3) for third in thirds]) if thirds else None,
        head_dim=pods[0].head_dim,
    )  # fmt: skip


def _kind(pod: Pseudopod) -> tuple[int, str, bool]:
    return pod.head_dim, str(pod.gate.device), pod.bias


def _answer(latent: Tensor, stimulus: Tensor, w: Matrices, kernel: Kernel, sight: Sight) -> Tensor:
    here, there = latent.device, w.out.device
    if here != there:
        moved = latent.to(there)
        latent, stimulus = moved, moved if latent is stimulus else stimulus.to(there)
        sight = Sight(sight.causal, *(None if x is None else x.to(there) for x in sight[1:]))
    heads, _ = combined_heads(latent, stimulus, w, kernel, sight)
    return F.linear(heads, w.out).to(here)


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more
