"""A decoder-only transformer: ids (B, N) int64 to logits (B, N, vocabulary) of the id behind each.

Pre-norm blocks of causal self-attention and two layers at each position. It stands beside `resnet_bk` with as many
parameters (`like`); its time and its scores grow as the square of the length.

Source: Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745 (the norm in front).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models import help_text, resnet_bk
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.exporting import exporting
from toolkit.models.norm import Norm
from toolkit.models.seeded import seeded
from toolkit.models.token_ids import check_ids

__all__ = ["Config", "Transformer", "build", "calibration", "example", "like", "training", "validation"]

_CALIBRATION = 32
_NEVER = -3e4

Count = Annotated[int, Field(ge=1, le=2**20)]


class Config(BlueprintConfig):
    """The defaults have the parameters of resnet_bk's defaults."""

    vocabulary: Annotated[int, Field(ge=2, le=2**20)] = 128
    """Ids are below it."""
    width: Count = 64
    """Features of a token."""
    blocks: Annotated[int, Field(ge=1, le=256)] = 2
    """Blocks, one after another."""
    heads: Annotated[int, Field(ge=1, le=4096)] = 4
    """Attention heads in a block; they share the width."""
    hidden: Count = 399
    """Hidden features at a position."""
    context: Annotated[int, Field(ge=1, le=2**24)] = 256
    """Rows of the position table: the longest sequence where positions are learned."""
    positions: Literal["learned", "none"] = "learned"
    """Whether tokens are told their places; without, the mask alone orders them."""

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.width % self.heads:
            raise InvalidInput(
                f"transformer: {self.heads} heads cannot share a width of {self.width}",
                hint="choose a width that is a multiple of heads",
            )
        return self


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


class _Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm, self.attention = Norm(config.width), _Attention(config)
        self.hidden_norm = Norm(config.width)
        self.up, self.down = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        y: Tensor = x + self.down(gelu(self.up(self.hidden_norm(x))))
        return y


class Transformer(nn.Module):
    """Embeddings of ids and places, blocks, norm, linear."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.place = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.norm = Norm(config.width)
        self.classify = nn.Linear(config.width, config.vocabulary)
        if self.place is not None:
            nn.init.normal_(self.place.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits (B, N, vocabulary) of ids (B, N) int64.

        Raises:
            InvalidInput: as `token_ids.check_ids` does.
        """
        check_ids(characters, self.embed.num_embeddings, None if self.place is None else self.config.context)
        x = self.embed(characters)
        if self.place is not None:
            x = x + self.place.weight[: characters.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classify(self.norm(x))
        return logits


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
    return next(iter(calibration(config)))


def calibration(config: Config = Config()) -> Dataset:
    """Windows of the training text; ids outside of a smaller vocabulary are taken modulo its size."""
    return help_text.windows("training", config.context, vocabulary=config.vocabulary, most=_CALIBRATION)


def training(config: Config = Config()) -> Dataset:
    """All windows of the training text, labelled with the ids behind each."""
    return help_text.windows("training", config.context, vocabulary=config.vocabulary)


def validation(config: Config = Config()) -> Dataset:
    """Every tenth window, kept from training."""
    return help_text.windows("validation", config.context, vocabulary=config.vocabulary)
