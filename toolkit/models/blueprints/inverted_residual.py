"""A small image classifier of inverted residuals.

Images (B, channels, image_size, image_size) in [0, 1] to logits (B, classes). A block widens its input by a 1x1
convolution, filters each channel (3x3), narrows it again without a ReLU, and adds what came in where shapes allow: what
is kept between blocks is narrow, so memory is small. For classifiers and backbones on boards, phones and the Edge TPU.

Source: Sandler et al. 2018, MobileNetV2, arXiv:1801.04381.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator
from torch import Tensor, nn

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.blueprints.separable_vision import normalised
from toolkit.models.pictures import SIDE, blank, digit_pictures
from toolkit.models.seeded import he_weights, seeded

__all__ = ["Config", "InvertedResidual", "InvertedVision", "build", "calibration", "example", "training", "validation"]


class Config(BlueprintConfig):
    """Stages halve the picture; their widths and depths are given."""

    image_size: Annotated[int, Field(ge=16, le=512, multiple_of=SIDE)] = 32
    """Pixels along a side, a multiple of 8."""
    channels: Annotated[int, Field(ge=1, le=16)] = 1
    """Channels of the picture."""
    classes: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Length of the answer."""
    stem: Annotated[int, Field(ge=4, le=512)] = 16
    """Channels behind the stem."""
    widths: Annotated[tuple[Annotated[int, Field(ge=4, le=1024)], ...], Field(min_length=1, max_length=6)] = (
        16,
        24,
        40,
    )
    """Channels kept in each stage."""
    depths: Annotated[tuple[Annotated[int, Field(ge=1, le=32)], ...], Field(min_length=1, max_length=6)] = (1, 2, 2)
    """Blocks in each stage; the first has stride 2, but in the first stage."""
    expansion: Annotated[int, Field(ge=1, le=12)] = 4
    """Times that a block is wider within."""
    head: Annotated[int, Field(ge=4, le=2048)] = 96
    """Channels in front of the mean."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        if len(self.widths) != len(self.depths):
            raise InvalidInput(
                f"inverted_residual: {len(self.widths)} widths and {len(self.depths)} depths make no stages",
                hint="give one depth for each width",
            )
        if self.image_size >> len(self.widths) < 1:
            raise InvalidInput(
                f"inverted_residual: a picture of {self.image_size} pixels cannot be halved {len(self.widths)} times",
                hint="use fewer stages or a larger image_size",
            )
        return self


class InvertedResidual(nn.Module):
    """(B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride)): wide within, narrow outside."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int = 1) -> None:
        super().__init__()
        wide = inputs * expansion
        widen = [*normalised(inputs, wide, 1), nn.ReLU6()] if expansion > 1 else []
        filter_each = [*normalised(wide, wide, 3, stride=stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *filter_each, *normalised(wide, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class InvertedVision(nn.Module):
    """Stem of stride 2, stages of inverted residuals, 1x1 head, mean, linear."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        layers: list[nn.Module] = [*normalised(config.channels, config.stem, 3, stride=2), nn.ReLU6()]
        width = config.stem
        for stage, (outputs, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                layers.append(InvertedResidual(width, outputs, config.expansion if stage else 1, stride))
                width = outputs
        self.features = nn.Sequential(*layers, *normalised(width, config.head, 1), nn.ReLU6())
        self.classify = nn.Linear(config.head, config.classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        logits: Tensor = self.classify(self.features(image).mean((2, 3)))
        return logits


def build(config: Config = Config()) -> nn.Module:
    """The network in eval mode, with weights from `config.seed`."""
    with seeded(config.seed):
        return he_weights(InvertedVision(config)).eval()


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
