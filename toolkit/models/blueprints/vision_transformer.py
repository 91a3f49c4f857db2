"""A small vision transformer.

Images (B, channels, image_size, image_size) in [0, 1] to logits (B, classes). Patches become tokens of some width; each
block attends over all tokens and then transforms each by itself, both behind a layer norm; the mean of the tokens is
classified. For pictures on GPUs of boards, where matrix products are what runs fast; the cost of attention grows with
the square of the number of patches.

Sources: Dosovitskiy et al. 2021, arXiv:2010.11929; Beyer, Zhai and Kolesnikov 2022, arXiv:2205.01580 (mean of tokens
in place of a class token, fixed sine and cosine positions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.blueprints.written_norm import WrittenNorm
from toolkit.models.pictures import SIDE, blank, digit_pictures
from toolkit.models.seeded import seeded

__all__ = ["Config", "VisionTransformer", "build", "calibration", "example", "training", "validation"]


class Config(BlueprintConfig):
    """Patches, width, depth and heads."""

    image_size: Annotated[int, Field(ge=8, le=512, multiple_of=SIDE)] = 32
    """Pixels along a side, a multiple of 8."""
    channels: Annotated[int, Field(ge=1, le=16)] = 1
    """Channels of the picture."""
    classes: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Length of the answer."""
    patch: Annotated[int, Field(ge=2, le=64)] = 4
    """Pixels along a side of a patch, a divisor of image_size."""
    width: Annotated[int, Field(ge=8, le=1024, multiple_of=4)] = 64
    """Features of a token, a multiple of 4 and of heads."""
    depth: Annotated[int, Field(ge=1, le=48)] = 3
    """Blocks."""
    heads: Annotated[int, Field(ge=1, le=32)] = 4
    """Attention heads."""
    expansion: Annotated[int, Field(ge=1, le=8)] = 2
    """Times that the network of each token is wider within."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.image_size % self.patch:
            raise InvalidInput(
                f"vision_transformer: patches of {self.patch} pixels do not tile a picture of {self.image_size}",
                hint="choose a patch that divides image_size",
            )
        if self.width % self.heads:
            raise InvalidInput(
                f"vision_transformer: {self.heads} heads cannot share {self.width} features",
                hint="choose a width that is a multiple of heads",
            )
        return self


def _positions(side: int, width: int) -> Tensor:
    """(side * side, width): sine and cosine of row and column at rising wavelengths."""
    rates = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    places = torch.arange(side, dtype=torch.float64)
    row, column = (grid.reshape(-1, 1) * rates for grid in torch.meshgrid(places, places, indexing="ij"))
    return torch.cat((row.sin(), row.cos(), column.sin(), column.cos()), 1).float()


class _Block(nn.Module):
    """(B, tokens, width) to the same."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_tokens = WrittenNorm(width), WrittenNorm(width)
        self.query_key_value, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)

    def forward(self, x_BTW: Tensor) -> Tensor:
        batch, tokens, width = x_BTW.shape
        packed = self.query_key_value(self.before_attention(x_BTW))
        q, k, v = packed.reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x_BTW = x_BTW + self.project(attended)
        result: Tensor = x_BTW + self.narrow(F.gelu(self.widen(self.before_tokens(x_BTW))))
        return result


class VisionTransformer(nn.Module):
    """Patches, positions, blocks, layer norm, mean, linear."""

    positions: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.tokens = nn.Conv2d(config.channels, width, config.patch, config.patch)
        self.register_buffer("positions", _positions(config.image_size // config.patch, width), persistent=False)
        self.blocks = nn.Sequential(*(_Block(width, config.heads, config.expansion) for _ in range(config.depth)))
        self.norm, self.classify = WrittenNorm(width), nn.Linear(width, config.classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        x_BTW = self.tokens(image).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.classify(self.norm(self.blocks(x_BTW)).mean(1))
        return logits


def build(config: Config = Config()) -> nn.Module:
    """The network in eval mode, with weights from `config.seed`."""
    with seeded(config.seed):
        return VisionTransformer(config).eval()


def example(config: Config = Config()) -> Mapping[str, Array]:
    """One empty picture."""
    return blank(config.image_size, config.channels)


def calibration(config: Config = Config()) -> Dataset:
    """128 enlarged digits of the training split."""
    return digit_pictures(config.image_size, config.channels, "calibration")


def training(config: Config = Config()) -> Dataset:
    """1,437 enlarged digits with labels."""
    return digit_pictures(config.image_size, config.channels, "training")


def validation(config: Config = Config()) -> Dataset:
    """360 enlarged digits that training never sees."""
    return digit_pictures(config.image_size, config.channels, "validation")
