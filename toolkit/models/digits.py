"""The built-in example: a small residual network for scikit-learn's handwritten digits.

Weights: `weights/digits.safetensors`, made by `python -m toolkit.training.digits` from seed 0 on the training split
below; Apache-2.0 like the code. Data: the test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak 1998, CC BY 4.0) as scikit-learn ships it, 1,797 images of 8x8.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor, nn

from passes.dataset import Array, Dataset
from toolkit.models.seeded import seeded
from toolkit.rng import generator

__all__ = ["DigitsNet", "Small", "build", "calibration", "example", "split", "training", "validation"]

_TEST_IMAGES = 360
_CALIBRATION_IMAGES = 128


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class DigitsNet(nn.Module):
    """Stem, a residual block, a depthwise-separable step down, a residual block, mean, linear.

    It holds one of each operator that edge networks are made of, so that every pass has something to do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(1, 24, 3)
        self.block1 = _conv(24, 24, 3)
        self.down = nn.Sequential(_conv(24, 24, 3, stride=2, groups=24), _conv(24, 48, 1))
        self.block2 = _conv(48, 48, 3)
        self.classify = nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 10) of images (B, 1, 8, 8) with values in [0, 1]."""
        x = self.stem(image)
        x = x + self.block1(x)
        x = self.down(x)
        x = x + self.block2(x)
        logits: Tensor = self.classify(x.mean((2, 3)))
        return logits


class Small(nn.Sequential):
    """An eighth of the parameters in three layers, untrained: for `Distil` to teach."""

    def __init__(self) -> None:
        super().__init__(_conv(1, 10, 3), _conv(10, 18, 3, stride=3), nn.Flatten(), nn.Linear(162, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 10) of images (B, 1, 8, 8) with values in [0, 1]."""
        logits: Tensor = super().forward(image)  # type: ignore[no-untyped-call]
        return logits


def build() -> nn.Module:
    """The network with its shipped weights, in eval mode."""
    from safetensors.torch import load

    with seeded(0):  # drawn in vain, but not from the global generator
        model = DigitsNet()
    model.load_state_dict(load(files("toolkit.models").joinpath("weights", "digits.safetensors").read_bytes()))
    return model.eval()


def split() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """((images, labels) to train on, (images, labels) to test on); images are float32 (n, 1, 8, 8) in [0, 1]."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    order = generator(0, "digits", "split").permutation(len(images))
    test, train = order[:_TEST_IMAGES], order[_TEST_IMAGES:]
    return (images[train], labels[train]), (images[test], labels[test])


def example() -> Mapping[str, Array]:
    """One sample of the right shape; zeros."""
    return {"image": torch.zeros(1, 1, 8, 8).numpy()}


def calibration() -> Dataset:
    """128 images of the training split."""
    (images, labels), _ = split()
    return Dataset.of_arrays(
        "digits, training split", {"image": images[:_CALIBRATION_IMAGES]}, labels[:_CALIBRATION_IMAGES]
    )


def training() -> Dataset:
    """The 1,437 labelled images of the training split."""
    (images, labels), _ = split()
    return Dataset.of_arrays("digits, whole training split", {"image": images}, labels)


def validation() -> Dataset:
    """The 360 labelled images of the test split."""
    _, (images, labels) = split()
    return Dataset.of_arrays("digits, test split", {"image": images}, labels)
