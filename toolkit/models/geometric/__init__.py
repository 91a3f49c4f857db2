"""A language model whose tokens meet in tiled attention: ids (B, N) int64 to logits (B, N, vocabulary) of the next ids.

Pre-norm blocks of `toolkit.geometry.neural.attention` and two layers at each position. All plans share their weights:
train with plan = "dense", deploy with "topk" (or "ranked", where a runtime has no TopK) and as few tiles as the answers
allow. For short contexts tiles cost more than they save; they are for thousands of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from passes.dataset import Array, Dataset
from toolkit.geometry.neural.attention.quantum_geometric import ChooseBy, Plan, QuantumGeometricAttention
from toolkit.geometry.neural.attention.scores import ScoreName
from toolkit.models import decoder
from toolkit.models.decoder import Count, Decoder, DecoderConfig
from toolkit.models.seeded import seeded

__all__ = ["Config", "Geometric", "build", "calibration", "example", "training", "validation"]


class Config(DecoderConfig):
    """The defaults compile for every board."""

    model: ClassVar[str] = "geometric"

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
    near: Annotated[int, Field(ge=0, le=4096)] = 0
    """Tiles just before the own that are looked into whatever they hold; 1 suits text."""
    flow_steps: Annotated[int, Field(ge=1, le=64)] = 1
    """Steps of heat flow along the attention; 1 is plain attention."""
    flow_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of a step."""


class Geometric(Decoder):
    """The decoder whose attention is over tiles."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, (_attention(config) for _ in range(config.blocks)))


def _attention(config: Config) -> nn.Module:
    return QuantumGeometricAttention(
        config.width, config.heads, manifold_dim=config.state_width, motive_rank=config.metric_rank,
        num_layers=config.flow_steps, flow_share=config.flow_share, tile_size=config.tile, refine=config.refine,
        score=config.score, plan=config.plan, causal=True, choose_by=config.choose_by, near=config.near,
    )  # fmt: skip


def build(config: Config = Config()) -> nn.Module:
    """Untrained, in eval mode."""
    with seeded(config.seed):
        return Geometric(config).eval()


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
