"""How good a module is on samples that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, isnan, prod

import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import UNASKED, Array
from passes.metric import Metric, each_label
from passes.torch_level.capture import flatten
from targets.errors import InvalidInput
from toolkit.training.batches import weight_of

__all__ = ["WORST", "Score", "check_labels", "judge", "on"]

Score = tuple[float, float]
"""(mean of the metric, or 0 where there is none; minus the mean loss): of two, the greater one is better."""

WORST: Score = (float("-inf"), float("-inf"))


@dataclass(frozen=True)
class _Totals:
    metric: float = 0.0
    loss: float = 0.0
    samples: int = 0
    weight: int = 0


def judge(
    model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], batches: Iterable[Batch], metric: Metric | None,
    device: torch.device,
) -> Score:  # fmt: skip
    """The score of `model`, in eval mode: the metric's mean over samples, the loss's over what it is a mean of.

    Raises:
        InvalidInput: the metric is not a number.
    """
    was_training = model.training
    model.eval()
    totals = _Totals()
    with torch.no_grad():
        for batch in batches:
            moved = on(batch, device)
            weight = weight_of(batch)
            value = float(loss(model, moved)) if weight else 0.0
            scored = 0.0 if metric is None or batch[1] is None else sum(_metric(model, moved, metric))
            totals = _Totals(
                totals.metric + scored,
                totals.loss + value * weight,
                totals.samples + _size(batch),
                totals.weight + weight,
            )
    model.train(was_training)
    mean_loss = totals.loss / max(1, totals.weight)
    return totals.metric / max(1, totals.samples), -mean_loss if isfinite(mean_loss) else float("-inf")


def _metric(model: nn.Module, batch: Batch, metric: Metric) -> list[float]:
    inputs, labels = batch
    assert labels is not None
    outputs = _outputs(model, inputs)
    known = each_label(labels.cpu().numpy())
    scores = [metric.score({n: a[i : i + 1] for n, a in outputs.items()}, label) for i, label in enumerate(known)]
    if any(isnan(score) for score in scores):
        raise InvalidInput(
            f"the metric {metric.name!r} is not a number", hint="correct the metric, or the labels that it is given"
        )
    return scores


def _outputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
    return {f"output_{i}": t.detach().float().cpu().numpy() for i, t in enumerate(flatten(model(*inputs.values())))}


def check_labels(model: nn.Module, batch: Batch, labels: Array | None, device: torch.device) -> None:
    """Hold every label against the classes that the first output of `model` has.

    Raises:
        InvalidInput: one is negative, or as large as there are classes; or the output has other positions.
    """
    if labels is None or not len(labels):
        return
    model.eval()
    with torch.no_grad():
        first = flatten(model(*on(batch, device)[0].values()))[0]
    positions = labels.shape[1:]
    if positions and tuple(first.shape[1:-1]) != positions:
        raise InvalidInput(
            f"labels of {list(positions)} positions do not fit an output of {list(first.shape[1:])} for each sample",
            hint="give a class for each sample, or for each position in front of the classes",
        )
    classes = first.numel() // (_size(batch) * prod(positions))
    asked = labels[labels != UNASKED] if positions else labels
    low, high = (int(asked.min()), int(asked.max())) if asked.size else (0, 0)
    if low < 0 or high >= classes:
        raise InvalidInput(
            f"labels go from {low} to {high}, the model's first output has {classes} classes",
            hint=f"number the classes from 0 to {classes - 1}, or give the model an output for each",
        )


def on(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`."""
    inputs, labels = batch
    return {n: t.to(device) for n, t in inputs.items()}, None if labels is None else labels.to(device)


def _size(batch: Batch) -> int:
    return len(next(iter(batch[0].values())))
