"""Between the ledger's tasks and the shared trainer."""

from __future__ import annotations

from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import Dataset
from toolkit.bench.training_cost.tasks import Task

__all__ = ["cross_entropy", "dataset"]


def dataset(task: Task) -> Dataset:
    """What a task learns from, as the trainer takes it."""
    return Dataset.of_arrays("to learn from", {"x": task.x.numpy()}, task.y.numpy())


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Of the classes, or of those of every position."""
    inputs, labels = batch
    assert labels is not None
    answers = model(*inputs.values())
    return nn.functional.cross_entropy(answers.reshape(labels.numel(), -1), labels.flatten())
