"""A small keyword spotter: convolutions over time and pitch, then a recurrent layer.

Log-energies of mel bands (B, frames, bands) to logits (B, keywords). The convolution finds sounds and halves time and
pitch, the recurrent layer (GRU or LSTM) follows them, and its last state is classified. For wake words on boards; data
are synthesised tones (see `toolkit.models.signals.keywords`), so its accuracy there says nothing about speech.

Source: Arik et al. 2017, Convolutional Recurrent Neural Networks for Small-Footprint Keyword Spotting,
arXiv:1703.05390.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from passes.dataset import Array, Dataset, Sample
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.blueprints.separable_vision import normalised
from toolkit.models.blueprints.written_recurrence import WrittenGRU, WrittenLSTM
from toolkit.models.seeded import he_weights, seeded
from toolkit.models.signals import KEYWORDS, keywords, log_bands

__all__ = ["Config", "KeywordSpotter", "build", "calibration", "example", "training", "validation"]

_RATE_HZ, _FRAME, _HOP = 8000, 256, 160


class Config(BlueprintConfig):
    """One convolutional step down in time and pitch, one recurrent layer."""

    frames: Annotated[int, Field(ge=8, le=400)] = 49
    """Frames of the example, 20 ms apart; a fourth of them are steps of the recurrent layer, written out."""
    bands: Annotated[int, Field(ge=8, le=128)] = 24
    """Mel bands of a frame."""
    width: Annotated[int, Field(ge=4, le=256)] = 16
    """Channels of the convolutions."""
    cell: Literal["gru", "lstm"] = "gru"
    """Kind of the recurrent layer."""
    hidden: Annotated[int, Field(ge=4, le=512)] = 48
    """Features of the recurrent layer."""
    keywords: Annotated[int, Field(ge=2, le=1000)] = len(KEYWORDS)
    """Length of the answer."""


class KeywordSpotter(nn.Module):
    """Two convolutions, a recurrent layer, linear."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.listen = nn.Sequential(
            *normalised(1, width, 5, stride=2),
            nn.ReLU(),
            *normalised(width, width, 3, stride=2, groups=width),
            *normalised(width, width, 1),
            nn.ReLU(),
        )
        heard = width * -(-config.bands // 4)
        self.follow = (WrittenGRU if config.cell == "gru" else WrittenLSTM)(heard, config.hidden)
        self.classify = nn.Linear(config.hidden, config.keywords)

    def forward(self, energies: Tensor) -> Tensor:
        """Logits (B, keywords) of log-energies (B, frames, bands)."""
        heard_BCTF = self.listen(energies[:, None])
        logits: Tensor = self.classify(self.follow(heard_BCTF.permute(0, 2, 1, 3).flatten(2)))
        return logits


def build(config: Config = Config()) -> nn.Module:
    """The network in eval mode, with weights from `config.seed`."""
    with seeded(config.seed):
        return he_weights(KeywordSpotter(config)).eval()


def example(config: Config = Config()) -> Mapping[str, Array]:
    """One recording of silence."""
    return {"energies": np.full((1, config.frames, config.bands), np.log(1e-6), np.float32)}


def calibration(config: Config = Config()) -> Dataset:
    """50 synthesised tones."""
    return _data(config, 50, 1, labelled=False)


def training(config: Config = Config()) -> Dataset:
    """500 synthesised tones with labels."""
    return _data(config, 500, 1)


def validation(config: Config = Config()) -> Dataset:
    """200 others."""
    return _data(config, 200, 2)


def _data(config: Config, count: int, seed: int, *, labelled: bool = True) -> Dataset:
    """Made when they are first read: compiling asks for the training data and seldom reads them."""
    made = cache(lambda: _energies(config, count, seed))

    def read() -> Iterator[Sample]:
        return ({"energies": row[None]} for row in made())

    name = f"synthesised tones, {'labelled' if labelled else 'unlabelled'}, seed {seed}"
    return Dataset(name, read, count, np.arange(count) % len(KEYWORDS) if labelled else None)


def _energies(config: Config, count: int, seed: int) -> Array:
    made = keywords(count, _FRAME + _HOP * (config.frames - 1), seed=seed, rate_hz=_RATE_HZ)
    return log_bands(made, frame=_FRAME, hop=_HOP, bands=config.bands)
