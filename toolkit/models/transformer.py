"""A decoder-only transformer: ids (B, N) int64 to logits (B, N, vocabulary) of the id behind each.

Pre-norm blocks of causal self-attention and two layers at each position. It stands beside `resnet_bk` with as many
parameters (`like`); its time and its scores grow as the square of the length.

Source: Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745 (the norm in front).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models import decoder, resnet_bk
from toolkit.models.decoder import Count, Decoder, DecoderConfig
from toolkit.models.exporting import exporting
from toolkit.models.seeded import seeded

__all__ = ["Config", "Transformer", "build", "calibration", "example", "like", "training", "validation"]

_NEVER = -3e4


class Config(DecoderConfig):
    """The defaults have the parameters of resnet_bk's defaults."""

    model: ClassVar[str] = "transformer"

    hidden: Count = 399
    """Hidden features at a position."""
    positions: Literal["learned", "none"] = "learned"
    """Whether tokens are told their places; without, the mask alone orders them."""


class _Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        if exporting():
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=_future(x))
        else:
            mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        answer: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return answer

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, heads x width) as (B, heads, N, width)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


def _future(x: Tensor) -> Tensor:
    """(N, N): what later tokens lose before the softmax; within float16, and made of operators that boards have."""
    place = torch.arange(x.shape[1], device=x.device)
    return (place > place[:, None]).to(x.dtype) * _NEVER


class Transformer(Decoder):
    """The decoder of self-attention."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, (_Attention(config) for _ in range(config.blocks)),
                         places=config.positions == "learned")  # fmt: skip


def like(config: resnet_bk.Config) -> Config:
    """As many parameters as a ResNet-BK of `config` has, to within half a hidden feature a block.

    Its width, blocks, vocabulary, context and positions are the same; its hidden features make up the difference.

    Raises:
        InvalidInput: the ResNet-BK is so small that attention alone has more.
    """
    heads = max(
        heads for heads in (8, 4, 2, 1) if heads == 1 or (config.width % heads == 0 and config.width >= 16 * heads)
    )
    base = Config(vocabulary=config.vocabulary, width=config.width, blocks=config.blocks, heads=heads, hidden=1,
                  context=config.context, positions=config.positions, seed=config.seed)  # fmt: skip
    missing = _parameters(resnet_bk.build(config)) - _parameters(build(base))
    hidden = 1 + round(missing / (config.blocks * (2 * config.width + 1)))
    if hidden < 1:
        raise InvalidInput(
            "attention alone has more parameters than this resnet_bk", hint="raise its experts or its hidden features"
        )
    return base.model_copy(update={"hidden": hidden})


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def build(config: Config = Config()) -> nn.Module:
    """Untrained, in eval mode."""
    with seeded(config.seed):
        return Transformer(config).eval()


def example(config: Config = Config()) -> Mapping[str, Array]:
    """The first ids of the calibration text, as many as the context has."""
    return decoder.example(config)


def calibration(config: Config = Config()) -> Dataset:
    """Windows of the training text; ids outside of a smaller vocabulary are taken modulo its size."""
    return decoder.calibration(config)


def training(config: Config = Config()) -> Dataset:
    """All windows of the training text, labelled with the ids behind each."""
    return decoder.training(config)


def validation(config: Config = Config()) -> Dataset:
    """Every tenth window, kept from training."""
    return decoder.validation(config)
