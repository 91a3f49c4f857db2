"""An organism that lives no more: its matrices side by side in ordinary linear layers, which is what is exported."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.exporting import exporting
from toolkit.organism.attending import Matrices, Sight, check_inputs, combined_heads
from toolkit.organism.errors import LifecycleError
from toolkit.organism.grouping import joined
from toolkit.organism.organism import Organism
from toolkit.organism.protocols import Kernel
from toolkit.organism.pseudopod import Pseudopod

__all__ = ["FrozenHeads", "FrozenOrganism", "freeze"]

_NEVER = -3e4
"""What a score loses where nobody attends, once exported: nothing is left of it, and float16 holds it."""

M = TypeVar("M", bound=nn.Module)


class FrozenError(LifecycleError, AttributeError):
    """What only a living organism has."""


class FrozenHeads(nn.Module):
    """Multi-head attention of heads of one width, their gates multiplied into the output matrix."""

    def __init__(self, w: Matrices, kernel: Kernel) -> None:
        super().__init__()
        d_model, width = w.out.shape
        self.head_dim, self.heads, self.kernel = w.head_dim, width // w.head_dim, kernel
        like: dict[str, Any] = {"device": w.out.device, "dtype": w.out.dtype}
        self.query_key_value = nn.Linear(d_model, 3 * width, bias=w.biases is not None, **like)
        self.out = nn.Linear(width, d_model, bias=False, **like)
        with torch.no_grad():
            self.query_key_value.weight.copy_(w.query_key_value)
            self.out.weight.copy_(w.out)
            if w.biases is not None:
                self.query_key_value.bias.copy_(w.biases)

    def forward(self, latent: Tensor, stimulus: Tensor, sight: Sight) -> Tensor:
        """(B, M, D)."""
        if exporting():
            heads = self._written(latent, stimulus, sight)
        else:
            heads, _ = combined_heads(latent, stimulus, self._matrices(), self.kernel, sight)
        answer: Tensor = self.out(heads)
        return answer

    def _matrices(self) -> Matrices:
        packed = self.query_key_value
        return Matrices(packed.weight, self.out.weight, packed.bias, self.head_dim)

    def _written(self, latent: Tensor, stimulus: Tensor, sight: Sight) -> Tensor:
        """In operators that every runtime has."""
        batch, tokens, _ = latent.shape
        if latent is stimulus:
            q, k, v = self.query_key_value(latent).chunk(3, 2)
        else:
            q = self.query_key_value(latent).chunk(3, 2)[0]
            k, v = self.query_key_value(stimulus).chunk(3, 2)[1:]
        q, k, v = (x.reshape(batch, -1, self.heads, self.head_dim).transpose(1, 2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=_added(q, k, sight))
        return mixed.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_dim)


def _added(q: Tensor, k: Tensor, sight: Sight) -> Tensor | None:
    """What is added to the scores; None where all is seen."""
    parts = []
    if sight.causal:
        m, n = q.shape[2], k.shape[2]
        here, there = torch.arange(m, device=q.device)[:, None] + (n - m), torch.arange(n, device=q.device)
        parts.append((there > here).to(q.dtype) * _NEVER)
    if sight.key_padding is not None:
        parts.append(sight.key_padding[:, None, None, :].to(q.dtype) * _NEVER)
    if sight.mask is not None:
        is_bool = sight.mask.dtype == torch.bool
        parts.append(sight.mask.to(q.dtype) * _NEVER if is_bool else sight.mask.to(q.dtype))
    return sum(parts[1:], parts[0]) if parts else None


class FrozenOrganism(nn.Module):
    """What an organism said when it was frozen. `contribution` is as the living one's; forward gives no state."""

    recalled: Tensor | None

    def __init__(self, organism: Organism, prune_below: float = 0.0) -> None:
        super().__init__()
        self.d_model = organism.d_model
        if len({pod.gate.device for pod in organism.pool}) > 1:
            raise LifecycleError(
                "components live on several devices", hint="move the organism to one: organism.to(device)"
            )
        kept = [pod for pod in organism.pool if abs(float(pod.gate.detach())) > prune_below]
        with torch.no_grad():
            self.groups = nn.ModuleList(FrozenHeads(joined(group), organism.kernel) for group in _alike(kept))
        self.norm, self.bias = copy.deepcopy(organism.norm), copy.deepcopy(organism.bias)
        recalled = None if organism.memory is None else organism.memory.recall()
        self.register_buffer("recalled", None if recalled is None else recalled.detach().clone())

    def forward(self, stimulus: Tensor) -> Tensor:
        """The answer (B, M, D) to a stimulus (B, M, D)."""
        check_inputs(stimulus, stimulus, self.d_model)
        seen = stimulus if self.recalled is None else stimulus + self.recalled
        h = self._normal(seen)
        query = h if seen is stimulus else self._normal(stimulus)
        return stimulus + self.contribution(query, h)

    def _normal(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return x
        normal: Tensor = self.norm(x)
        return normal

    def contribution(
        self, latent: Tensor, stimulus: Tensor, *, causal: bool = False, key_padding: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """What the components added, (B, M, D)."""
        total: Tensor | None = None
        for group in self.groups:
            more = group(latent, stimulus, Sight(causal, key_padding, mask))
            total = more if total is None else total + more
        total = torch.zeros_like(latent) if total is None else total
        return total if self.bias is None else total + self.bias

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_LIVING:
            raise FrozenError(f"a frozen organism has no {name}", hint="change the living one, and freeze it again")
        return super().__getattr__(name)


_OF_THE_LIVING = frozenset({"advance", "members", "pool", "settle", "spawn"})


def freeze(module: nn.Module, *, prune_below: float = 0.0) -> nn.Module:
    """A copy of `module` in eval mode in which every organism is frozen; the module itself stays as it is.

    Where all are settled, none with gate 0, and the same numbers come in, its answers are the living one's to the bit;
    else to rounding, because components then join or leave one product.

    Args:
        prune_below: Components whose gate is no larger are left out; those of gate 0 always are.

    Raises:
        LifecycleError: components live on several devices.
    """
    if isinstance(module, Organism):
        return FrozenOrganism(module, prune_below).eval()
    living = {id(part): FrozenOrganism(part, prune_below) for part in module.modules() if isinstance(part, Organism)}
    frozen = copy.deepcopy(module, living)  # whoever is known to deepcopy is put in place, and not copied
    return frozen.eval()


def _alike(pods: list[Pseudopod]) -> list[list[Pseudopod]]:
    """Those with equal heads together, in the order of their ids."""
    groups: dict[tuple[int, bool], list[Pseudopod]] = {}
    for pod in pods:
        groups.setdefault((pod.head_dim, pod.bias), []).append(pod)
    return [groups[key] for key in sorted(groups)]
