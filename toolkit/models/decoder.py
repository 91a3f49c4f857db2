"""A language model around any causal attention: ids (B, N) int64 to logits (B, N, vocabulary) of the id behind each.

Pre-norm blocks of attention and of two layers at each position, each added to what it read. What its models have in
common: their sizes, their text, their network.

Source: Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745 (the norm in front).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import gelu

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models import help_text
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.norm import Norm
from toolkit.models.token_ids import check_ids

__all__ = ["Count", "Decoder", "DecoderConfig", "calibration", "example", "training", "validation"]

_CALIBRATION = 32

Count = Annotated[int, Field(ge=1, le=2**20)]


class DecoderConfig(BlueprintConfig):
    """Sizes of a decoder."""

    model: ClassVar[str]
    """Its name, in errors."""

    vocabulary: Annotated[int, Field(ge=2, le=2**20)] = 128
    """Ids are below it."""
    width: Count = 64
    """Features of a token."""
    blocks: Annotated[int, Field(ge=1, le=256)] = 2
    """Blocks, one after another."""
    heads: Annotated[int, Field(ge=1, le=4096)] = 4
    """Attention heads in a block; they share the width."""
    hidden: Count = 256
    """Hidden features at a position."""
    context: Annotated[int, Field(ge=1, le=2**24)] = 256
    """Rows of the position table: the longest sequence where positions are learned."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.width % self.heads:
            raise InvalidInput(
                f"{self.model}: {self.heads} heads cannot share a width of {self.width}",
                hint="choose a width that is a multiple of heads",
            )
        return self


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int, attention: nn.Module) -> None:
        super().__init__()
        self.attention_norm, self.attention = Norm(width), attention
        self.hidden_norm = Norm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        y: Tensor = x + self.down(gelu(self.up(self.hidden_norm(x))))
        return y


class Decoder(nn.Module):
    """Embeddings of ids and places, blocks, norm, linear.

    Args:
        attentions: One for each block, (B, N, width) to the same; taken one by one while the blocks are made.
        places: Whether tokens are told their places; without, the attention alone orders them.
    """

    def __init__(self, config: DecoderConfig, attentions: Iterable[nn.Module], *, places: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.place = nn.Embedding(config.context, config.width) if places else None
        self.blocks = nn.ModuleList(_Block(config.width, config.hidden, attention) for attention in attentions)
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


def example(config: DecoderConfig) -> Mapping[str, Array]:
    """The first ids of the calibration text, as many as the context has."""
    return next(iter(calibration(config)))


def calibration(config: DecoderConfig) -> Dataset:
    """Windows of the training text; ids outside of a smaller vocabulary are taken modulo its size."""
    return help_text.windows("training", config.context, vocabulary=config.vocabulary, most=_CALIBRATION)


def training(config: DecoderConfig) -> Dataset:
    """All windows of the training text, labelled with the ids behind each."""
    return help_text.windows("training", config.context, vocabulary=config.vocabulary)


def validation(config: DecoderConfig) -> Dataset:
    """Every tenth window, kept from training."""
    return help_text.windows("validation", config.context, vocabulary=config.vocabulary)
