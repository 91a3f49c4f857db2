"""ResNet-BK: a language model whose tokens meet in the diagonal of a tridiagonal resolvent, in linear time.

A block is norm, a sparse mixture of experts, potentials v of the tokens, features [Re G, Im G] of the chain with these
potentials, a projection, added to what came in. ids (B, N) int64 to logits (B, N, vocabulary).

It has two modes, since G[i, i] of a whole chain depends on every site and would tell a token its future.

`causal`: features of site i are those of the chain that ends at i (`kernels.bk_core.one_sided`). The model predicts the
next id, and nothing of a later token reaches an earlier one.

`both_sides`: features of the whole chain (`kernels.bk_core`). The model fills in hidden ids, and cannot be asked for
the next one. The id behind the vocabulary's last stands for a hidden one.

Not published with this model: several potentials a block, each with an energy and a broadening of its own, and the
causal mode. Source of the recursions: Godfrin 1991, J. Phys.: Condens. Matter 3, 7843; others stand beside each option.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import UNASKED, Array, Dataset
from targets.errors import InvalidInput
from toolkit.models import help_text
from toolkit.models.resnet_bk.config import Config
from toolkit.models.resnet_bk.model import Answer, ResNetBK
from toolkit.models.resnet_bk.objectives import filled_in, next_id
from toolkit.models.seeded import seeded
from toolkit.rng import generator

__all__ = ["Answer", "Config", "ResNetBK", "build", "calibration", "example", "loss", "training", "validation"]

_CALIBRATION = 32
_HIDDEN = 0.15


def build(config: Config = Config()) -> nn.Module:
    """Untrained, in eval mode."""
    with seeded(config.seed):
        return ResNetBK(config).eval()


def example(config: Config = Config()) -> Mapping[str, Array]:
    """The first ids of the calibration text, as many as the context has."""
    return next(iter(calibration(config)))


def calibration(config: Config = Config()) -> Dataset:
    """Windows of the training text; ids outside of a smaller vocabulary are taken modulo its size."""
    return help_text.windows("training", config.context, vocabulary=config.vocabulary, most=_CALIBRATION)


def training(config: Config = Config()) -> Dataset:
    """All windows of the training text. Labels of a causal model are the ids behind each; one of both sides gets
    windows with every seventh id or so hidden, one at least, and is asked for those."""
    return _lesson("training", config)


def validation(config: Config = Config()) -> Dataset:
    """Every tenth window, kept from training; likewise."""
    return _lesson("validation", config)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """What the trainer makes small: the cross entropy of `training`'s labels, and what uneven experts, pondering and
    dense sites cost.

    Raises:
        InvalidInput: the batch has no labels.
    """
    assert isinstance(model, ResNetBK)
    inputs, labels = batch
    if labels is None:
        raise InvalidInput("the data have no labels to train with", hint="give an id for each position")
    (ids,) = inputs.values()
    return next_id(model, ids, labels) if model.config.mode == "causal" else filled_in(model, ids, labels)


def _lesson(part: str, config: Config) -> Dataset:
    data = help_text.windows(part, config.context, vocabulary=config.vocabulary)
    if config.mode == "causal":
        return data
    ids = np.concatenate([sample["characters"] for sample in data])
    drawn = generator(config.seed, "resnet_bk", "hidden", part).random(ids.shape)
    hidden = drawn < np.maximum(_HIDDEN, drawn.min(axis=1, keepdims=True) + np.finfo(float).eps)
    shown = {"characters": np.where(hidden, config.vocabulary, ids)}
    return Dataset.of_arrays(f"{data.name}, some hidden", shown, np.where(hidden, ids, UNASKED))
