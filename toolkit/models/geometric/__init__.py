"""A language model whose tokens meet in tiled attention: ids (B, N) int64 to logits (B, N, vocabulary) of the next ids.

Pre-norm blocks of `toolkit.geometry.neural.attention` and two layers at each position. All plans share their weights:
train with plan = "dense", deploy with "topk" (or "ranked", where a runtime has no TopK) and as few tiles as the answers
allow. For short contexts tiles cost more than they save; they are for thousands of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import gelu

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.geometry.neural.attention.quantum_geometric import ChooseBy, Plan, QuantumGeometricAttention
from toolkit.geometry.neural.attention.scores import ScoreName
from toolkit.models import help_text
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.norm import Norm
from toolkit.models.seeded import seeded
from toolkit.models.token_ids import check_ids

__all__ = ["Config", "Geometric", "build", "calibration", "example", "training", "validation"]

_CALIBRATION = 32

Count = Annotated[int, Field(ge=1, le=2**20)]


class Config(BlueprintConfig):
    """The defaults compile for every board."""

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
    """Rows of the position table: the longest sequence."""
    score: ScoreName = "metric"
    """What attention takes the softmax of."""
    state_width: Annotated[int, Field(ge=1, le=4096)] = 16
    """Numbers of a query's and key's state in one head."""
    metric_rank: Annotated[int, Field(ge=1, le=4096)] = 2
    """Of the low-rank part of the score "metric"."""
    tile: Count = 32
    """Tokens in a tile."""
    refine: Count = 4
    """Tiles that a tile of queries looks into token by token, its own among them."""
    plan: Plan = "ranked"
    """How tiles are chosen; "dense" looks at every token."""
    choose_by: ChooseBy = "earlier"
    """Whose wishes decide; with "own" a tile's first tokens learn what its last look for."""
    flow_steps: Annotated[int, Field(ge=1, le=64)] = 1
    """Steps of heat flow along the attention; 1 is plain attention."""
    flow_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of a step."""

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.width % self.heads:
            raise InvalidInput(
                f"geometric: {self.heads} heads cannot share a width of {self.width}",
                hint="choose a width that is a multiple of heads",
            )
        return self


class _Block(nn.Module):
    """Attention, then two layers at each position, each added to what it read."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = Norm(config.width)
        self.attention = QuantumGeometricAttention(
            config.width, config.heads, manifold_dim=config.state_width, motive_rank=config.metric_rank,
            num_layers=config.flow_steps, flow_share=config.flow_share, tile_size=config.tile, refine=config.refine,
            score=config.score, plan=config.plan, causal=True, choose_by=config.choose_by,
        )  # fmt: skip
        self.hidden_norm = Norm(config.width)
        self.up, self.down = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        y: Tensor = x + self.down(gelu(self.up(self.hidden_norm(x))))
        return y


class Geometric(nn.Module):
    """Embeddings of ids and places, blocks, norm, linear."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.place = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.norm = Norm(config.width)
        self.classify = nn.Linear(config.width, config.vocabulary)
        nn.init.normal_(self.place.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits (B, N, vocabulary) of ids (B, N) int64.

        Raises:
            InvalidInput: as `token_ids.check_ids` does.
        """
        check_ids(characters, self.embed.num_embeddings, self.config.context)
        x = self.embed(characters) + self.place.weight[: characters.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classify(self.norm(x))
        return logits


def build(config: Config = Config()) -> nn.Module:
    """Untrained, in eval mode."""
    with seeded(config.seed):
        return Geometric(config).eval()


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
