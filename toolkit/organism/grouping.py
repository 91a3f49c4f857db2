"""Many components in few calls: matrices of equal heads laid side by side, and one attention for all of them.

When the organism answers, newborns and those who fade are computed apart and added behind the others. So a birth, and
the removal of a component whose gate is 0, leave every product of the others as it was: the sum gains or loses a term
of zeros, and no bit moves. A step of training takes all in one call: each apart costs as many launches as all together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.organism.attending import Matrices, Sight, combined_heads
from toolkit.organism.protocols import Kernel
from toolkit.organism.pseudopod import Pseudopod, Stage

__all__ = ["contribution", "joined", "settled_groups"]


def contribution(
    pods: Sequence[Pseudopod], latent: Tensor, stimulus: Tensor, kernel: Kernel, sight: Sight, *, is_step: bool = False
) -> Tensor | None:
    """(B, M, D), what `pods` (sorted by id) add; None where there are none. Those on other devices compute there: what
    they see goes to each device once, and one sum comes back.

    Args:
        is_step: Of training: all are computed together, whatever their stage.
    """
    seen: dict[torch.device, _Seen] = {}
    sums: dict[torch.device, Tensor] = {}
    for w in _products(pods, is_step):
        there = w.out.device
        if there not in seen:
            seen[there] = _moved(_Seen(latent, stimulus, sight), there)
        heads, _ = combined_heads(*seen[there][:2], w, kernel, seen[there].sight)
        answer = F.linear(heads, w.out)
        sums[there] = sums[there] + answer if there in sums else answer
    back = [each.to(latent.device) for each in sums.values()]
    return sum(back[1:], back[0]) if back else None


def _products(pods: Sequence[Pseudopod], is_step: bool) -> Iterator[Matrices]:
    together = [pod for pod in pods if is_step or pod.stage is Stage.SETTLED]
    yield from map(joined, _of_a_kind(together))
    if not is_step:
        for pod in pods:
            if pod.stage is not Stage.SETTLED:
                yield pod.matrices()._replace(out=pod.gate * pod.out.matrix())


class _Seen(NamedTuple):
    latent: Tensor
    stimulus: Tensor
    sight: Sight


def _moved(seen: _Seen, there: torch.device) -> _Seen:
    """The same on another device; under autocast as the numbers that products are computed in, which are half."""
    latent, stimulus, sight = seen
    here = latent.device
    if here == there:
        return seen
    is_halved = torch.is_autocast_enabled(here.type) and latent.dtype == torch.float32
    dtype = torch.get_autocast_dtype(here.type) if is_halved else latent.dtype
    moved = latent.to(dtype).to(there)
    rest = moved if latent is stimulus else stimulus.to(dtype).to(there)
    return _Seen(moved, rest, Sight(sight.causal, *(None if x is None else x.to(there) for x in sight[1:])))


def settled_groups(pods: Sequence[Pseudopod]) -> list[list[Pseudopod]]:
    """The settled, those with equal heads on one device together."""
    return _of_a_kind([pod for pod in pods if pod.stage is Stage.SETTLED])


def _of_a_kind(pods: list[Pseudopod]) -> list[list[Pseudopod]]:
    if len({_kind(pod) for pod in pods}) < 2:
        return [pods] if pods else []
    return [list(group) for _, group in groupby(sorted(pods, key=_kind), key=_kind)]


def joined(pods: Sequence[Pseudopod]) -> Matrices:
    """Their matrices side by side, each output matrix times its gate: few calls, since a GPU waits for none of them."""
    parts = [part for third in zip(*(pod.inward for pod in pods), strict=True) for part in third]
    biases = [part.bias for part in parts if part.bias is not None]
    each, head_dim = torch.stack([pod.gate for pod in pods for _ in range(pod.n_heads)]), pods[0].head_dim
    gates = each[:, None].expand(-1, head_dim).flatten()
    return Matrices(
        torch.cat([part.matrix() for part in parts]), gates * torch.cat([pod.out.matrix() for pod in pods], 1),
        biases=torch.cat(biases) if biases else None, head_dim=head_dim,
    )  # fmt: skip


def _kind(pod: Pseudopod) -> tuple[int, str, bool]:
    return pod.head_dim, str(pod.gate.device), pod.bias
