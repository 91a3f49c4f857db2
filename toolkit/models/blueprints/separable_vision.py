"""A small image classifier of depthwise-separable convolutions.

Images (B, channels, image_size, image_size) in [0, 1] to logits (B, classes). A separable convolution filters each
channel by itself (3x3), then mixes channels (1x1): 8 to 9 times fewer multiplications than a plain 3x3 convolution of
the same width. For classifiers on microcontrollers, CPUs of boards and the Edge TPU, where int8 runs in hardware.

Source: Howard et al. 2017, MobileNets, arXiv:1704.04861.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator
from torch import Tensor, nn

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.pictures import SIDE, blank, digit_pictures
from toolkit.models.seeded import he_weights, seeded

__all__ = [
    "Config", "SeparableConv", "SeparableVision", "build", "calibration", "example", "normalised", "training",
    "validation",
]  # fmt: skip

_Count = Annotated[int, Field(ge=1, le=64)]


class Config(BlueprintConfig):
    """Stages halve the picture and double the width."""

    image_size: Annotated[int, Field(ge=16, le=512, multiple_of=SIDE)] = 32
    """Pixels along a side, a multiple of 8."""
    channels: Annotated[int, Field(ge=1, le=16)] = 1
    """Channels of the picture."""
    classes: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Length of the answer."""
    width: Annotated[int, Field(ge=4, le=512)] = 24
    """Channels behind the stem."""
    stages: Annotated[tuple[_Count, ...], Field(min_length=1, max_length=5)] = (2, 2)
    """Separable convolutions in each stage; the first of a stage has stride 2."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.image_size >> (len(self.stages) + 1) < 1:
            raise InvalidInput(
                f"a picture of {self.image_size} pixels cannot be halved {len(self.stages) + 1} times",
                hint="use fewer stages or a larger image_size",
            )
        return self


def normalised(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size over its stride, and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class SeparableConv(nn.Sequential):
    """(B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride)): depthwise 3x3, pointwise 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            *normalised(inputs, inputs, 3, stride=stride, groups=inputs),
            nn.ReLU(),
            *normalised(inputs, outputs, 1),
            nn.ReLU(),
        )


class SeparableVision(nn.Module):
    """Stem of stride 2, stages of separable convolutions, mean, linear."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [*normalised(config.channels, width, 3, stride=2), nn.ReLU()]
        for count in config.stages:
            for i in range(count):
                layers.append(SeparableConv(width, width if i else 2 * width, 1 if i else 2))
                width = width if i else 2 * width
        self.features = nn.Sequential(OrderedDict((str(i), layer) for i, layer in enumerate(layers)))
        self.classify = nn.Linear(width, config.classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        logits: Tensor = self.classify(self.features(image).mean((2, 3)))
        return logits


def build(config: Config = Config()) -> nn.Module:
    """The network in eval mode, with weights from `config.seed`."""
    with seeded(config.seed):
        return he_weights(SeparableVision(config)).eval()


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
