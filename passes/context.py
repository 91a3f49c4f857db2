"""What a pass may use beside the program: nothing else, and never global."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.metric import Metric
from passes.program import Program
from passes.signature import Signature
from targets.stack import Stack

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Batch", "Budget", "Context", "Fit", "Pace", "synthetic_data"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How far an approximate pass may move the answers before it is narrowed or reverted.

    `min_sqnr_db` is the signal-to-quantization-noise ratio of the worst output; `max_metric_drop` is in the unit of
    the metric and counts where there are labels.
    """

    min_sqnr_db: float = 10.0
    max_metric_drop: float = 0.01


class Pace(Protocol):
    """Decides whether a rewrite made a program slower, where the stack's model is not to decide it."""

    @property
    def key(self) -> str:
        """Everything that the decisions depend on; part of the key of a kept pass."""

    def slower(self, step: str, before: Program, after: Program) -> bool:
        """Whether `after` is slower than `before`. Asked once for each attempt of the pass called `step`."""


Batch: TypeAlias = "tuple[Mapping[str, Tensor], Tensor | None]"
"""Inputs by name, joined along the first axis, and (batch,) or (batch, ...) labels where the data have them."""


class Fit(Protocol):
    """Trains torch modules on the data and with the seed that it was made for; it alone owns loops and checkpoints."""

    @property
    def key(self) -> str:
        """Everything beside the arguments that decides the weights; part of the key of a kept pass."""

    def __call__(
        self, model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], *, step: str, epochs: int, rate: float
    ) -> nn.Module:
        """A trained copy of `model`, in eval mode; the one given stays as it was.

        Args:
            loss: From the module and a batch to a scalar; lower is better.
            step: Names the work, in progress and checkpoints: one that was cut off goes on under the same name.
            epochs: Passes over the data at most; `rate` is the highest learning rate.

        Raises:
            InvalidInput: there are no data, labels are missing or out of range, or the loss is not finite.
        """


def _silent(_step: str, _done: float) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a pass may use.

    Args:
        stack: Where the model will run.
        data: Calibration samples; None where the user gave none.
        validation: Samples that proofs and metrics are taken on; the calibration data where None.
        metric: Judges the answers where `validation` has labels.
        fit: Trains a torch module; set by the driver for recipes that need it, None elsewhere.
        pace: Decides what is slower; the stack's model does where None.
        seed: Of every random choice.
        progress: Called with a step's name and its share done.
    """

    stack: Stack
    data: Dataset | None = None
    validation: Dataset | None = None
    metric: Metric | None = None
    fit: Fit | None = None
    pace: Pace | None = None
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    progress: Callable[[str, float], None] = _silent

    def proof_data(self, program: Program) -> Dataset:
        """Samples to prove a pass on: validation, else calibration, else synthetic ones that say so."""
        chosen = self.validation or self.data
        return chosen if chosen is not None else synthetic_data(program.signature, self.seed, example=program.example)


SYNTHETIC = "synthetic"


def synthetic_data(signature: Signature, seed: int, size: int = 4, *, example: Sample | None = None) -> Dataset:
    """Seeded noise of the right shape: shows that two graphs compute the same, says nothing about accuracy.

    Dimensions that vary have the size that `example` has there, or 1.
    """
    rng = np.random.default_rng(seed)
    shapes = {s.name: example[s.name].shape if example else _ones(s.shape) for s in signature.inputs}
    samples = [{s.name: _noise(rng, s.dtype, shapes[s.name]) for s in signature.inputs} for _ in range(size)]
    return Dataset(SYNTHETIC, lambda: samples, size)


def _ones(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else 1 for d in shape)


def _noise(rng: np.random.Generator, dtype: str, static: tuple[int, ...]) -> Array:
    if np.issubdtype(np.dtype(dtype), np.floating):
        return rng.standard_normal(static).astype(dtype)
    return rng.integers(0, 2, static).astype(dtype)
