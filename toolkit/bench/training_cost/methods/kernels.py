"""A language model of experts, its mixtures by our kernels beside every expert on every token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, one_hot

from kernels.moe import moe, route
from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.language import CHARACTERS, Size, learn_language
from toolkit.bench.training_cost.metering import Meter

_EXPERTS = 8


class _Mixture(nn.Module):
    """One of eight experts for each position, by the likeliest gate."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.router = nn.Linear(width, _EXPERTS, bias=False)
        self.w_in = nn.Parameter(torch.randn(_EXPERTS, 4 * width, width) / width**0.5)
        self.w_out = nn.Parameter(torch.randn(_EXPERTS, width, 4 * width) / (4 * width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) of (..., width)."""
        rows = x.flatten(0, -2)
        logits = self.router(rows)
        w_in, w_out = self.w_in.to(logits.dtype), self.w_out.to(logits.dtype)
        rows = rows.to(logits.dtype)
        if self.fused:
            return moe(rows, logits, w_in, w_out, k=1, hard=False).out.reshape(x.shape)
        routed = route(logits, 1, hard=False)
        share = one_hot(routed.chosen, _EXPERTS).to(routed.gates.dtype).mul(routed.gates[..., None]).sum(1)
        every = torch.bmm(gelu(torch.bmm(rows.expand(_EXPERTS, *rows.shape), w_in.mT)), w_out.mT)
        return (every * share.T[..., None].to(every.dtype)).sum(0).reshape(x.shape)


class _Block(nn.Module):
    def __init__(self, size: Size, fused: bool) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm, self.mixture_norm = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.qkv, self.out = (nn.Linear(size.width, n * size.width, bias=False) for n in (3, 1))
        self.mixture = _Mixture(size.width, fused)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y: Tensor = x + self.mixture(self.mixture_norm(x))
        return y


class _Model(nn.Module):
    def __init__(self, size: Size, fused: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(CHARACTERS, size.width), nn.Embedding(size.context, size.width)
        self.blocks = nn.Sequential(*(_Block(size, fused) for _ in range(size.blocks // 2 + 1)))
        self.norm, self.classify = nn.LayerNorm(size.width), nn.Linear(size.width, CHARACTERS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, T, characters) of (B, T) characters."""
        places = torch.arange(x.shape[1], device=x.device)
        logits: Tensor = self.classify(self.norm(self.blocks(self.embed(x) + self.place(places))))
        return logits


def _arm(fused: bool) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        kind = "bfloat16" if meter.device.type == "cuda" else "float32"
        learn_language(lambda size: _Model(size, fused), seed, meter, kind=kind)  # type: ignore[arg-type]

    return run


ABLATION = Ablation(
    name="kernels",
    factor="kernels",
    claimed=10.0,
    task="characters of Python's help, mixtures of 8 experts, nats",
    arms={"every expert": _arm(False), "kernels.moe": _arm(True)},
    headline="kernels.moe",
    cost="time_s",
    costs=("time_s",),
    margin=0.01,
    note="one of the kernels, in a whole training; `python -m toolkit.bench.kernels` times them all",
)
