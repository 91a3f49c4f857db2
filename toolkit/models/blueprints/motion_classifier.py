"""What the sequence blueprints share: six-axis motion as their data, and a small classifier around a block.

A block maps (B, L, W) to (B, L, W), and (B, W) to (B, W). The classifier puts a linear layer in front of it, takes the
mean over time and reads off one of the four kinds of `toolkit.models.signals.motion`: accelerations in units of
gravity, rates of turn in rad/s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.blueprints.sizes import tracing
from toolkit.models.signals import MOTION_KINDS, motion

__all__ = [
    "AXES", "MotionClassifier", "MotionConfig", "calibration", "check_sequence", "example", "training", "validation",
]  # fmt: skip

AXES = 6
_GRAVITY_M_S2 = 9.81
_CALIBRATION, _TRAINING, _VALIDATION = 64, 512, 256


class MotionConfig(BlueprintConfig):
    """What every one of them can be told."""

    samples: Annotated[int, Field(ge=1, le=65536)] = 64
    """Readings in a signal: its length L."""
    width: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 32
    """Features W of a position inside the network."""


_DEFAULT = MotionConfig()


class MotionClassifier(nn.Module):
    """Linear, the block, mean over time, linear."""

    def __init__(self, width: int, block: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Linear(AXES, width)
        self.block = block
        self.classify = nn.Linear(width, len(MOTION_KINDS))

    def forward(self, signal: Tensor) -> Tensor:
        """Logits (B, 4) of signals (B, L, 6), or of single readings (B, 6)."""
        check_sequence(signal, AXES)
        x: Tensor = self.block(self.embed(signal))
        logits: Tensor = self.classify(x.mean(1) if x.ndim == 3 else x)
        return logits


def check_sequence(x: Tensor, features: int) -> None:
    """Refuse what is neither (B, L, features) nor (B, features).

    Raises:
        InvalidInput: it is another shape.
    """
    if tracing():  # sizes are tensors then, and were checked before
        return
    if x.ndim not in (2, 3) or x.shape[-1] != features:
        raise InvalidInput(
            f"an input is (batch, length, {features}) or (batch, {features}), this one is {tuple(x.shape)}",
            hint="features are the last axis, the batch is the first",
        )


# ---- data


def example(config: MotionConfig = _DEFAULT) -> Mapping[str, Array]:
    """One signal (1, L, 6)."""
    values, _ = _signals(1, config.samples, seed=0)
    return {"signal": values}


def calibration(config: MotionConfig = _DEFAULT) -> Dataset:
    """64 of the signals to train on."""
    return training(config).take(_CALIBRATION)


def training(config: MotionConfig = _DEFAULT) -> Dataset:
    """512 labelled signals, synthesised."""
    values, labels = _signals(_TRAINING, config.samples, seed=0)
    return Dataset.of_arrays("synthesised motion", {"signal": values}, labels)


def validation(config: MotionConfig = _DEFAULT) -> Dataset:
    """256 labelled signals of another seed."""
    values, labels = _signals(_VALIDATION, config.samples, seed=1)
    return Dataset.of_arrays("synthesised motion, held out", {"signal": values}, labels)


def _signals(count: int, samples: int, *, seed: int) -> tuple[Array, Array]:
    made = motion(count, samples, seed=seed)
    units = np.array([_GRAVITY_M_S2] * 3 + [1.0] * 3, np.float32)
    return made.values / units, made.labels
