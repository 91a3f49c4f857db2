"""Measurements of a living model on a fixed batch that it is not trained on: the same samples each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from passes.context import Batch
from toolkit.organism.organism import Organism
from toolkit.organism.pseudopod import Pseudopod

__all__ = ["Probe", "Seat", "seats_of"]

Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Seat:
    """A component and the layer that it lives in."""

    layer: str
    organism: Organism
    pod: Pseudopod

    @property
    def name(self) -> str:
        """One of its own among all layers."""
        return f"{self.layer}/{self.pod.component_id}"


def seats_of(layers: Mapping[str, Organism]) -> list[Seat]:
    """All components, by layer and id."""
    return [Seat(layer, organism, pod) for layer, organism in sorted(layers.items()) for pod in organism.pool]


@dataclass(frozen=True)
class Probe:
    """Batches that are asked and never learnt from, and the loss that they are asked for."""

    batches: Sequence[Batch]
    loss: Loss

    def __call__(self, model: nn.Module) -> float:
        """Mean loss, in eval mode, without a gradient."""
        with _asked(model):
            return sum(float(self.loss(model, batch)) for batch in self.batches) / len(self.batches)


@contextmanager
def _asked(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
