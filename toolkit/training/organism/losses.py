"""Losses as functions of tensors. What is not finite is returned as it is: the gate sees to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.nn import functional

from targets.errors import InvalidInput

__all__ = ["MultiObjective", "contrastive", "cross_entropy", "distillation", "mse"]


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = -100, smoothing: float = 0.0) -> Tensor:
    """Mean over the labels that count, in nats.

    Args:
        logits: (..., classes).
        labels: (...) int64; those equal to `ignore_index` do not count. Where none counts the mean is NaN.
        smoothing: Share of the probability that is spread over all classes, in [0, 1).

    Raises:
        InvalidInput: the labels are not one for each row of logits.
    """
    if logits.shape[:-1] != labels.shape:
        raise InvalidInput(
            f"labels of {list(labels.shape)} for logits of {list(logits.shape)}",
            hint="give one label for each row of logits",
        )
    return functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=ignore_index, label_smoothing=smoothing
    )


def mse(answers: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of two tensors of one shape; nothing is broadcast.

    Raises:
        InvalidInput: the shapes differ.
    """
    if answers.shape != wanted.shape:
        raise InvalidInput(
            f"answers of {list(answers.shape)} beside targets of {list(wanted.shape)}", hint="give both in one shape"
        )
    return functional.mse_loss(answers, wanted)


def contrastive(left: Tensor, right: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Symmetric InfoNCE in nats: row i of `left` belongs to row i of `right` and to no other.

    Args:
        left, right: (n, features), n >= 2; lengths of rows do not matter.

    Raises:
        InvalidInput: other shapes, or a temperature that is not above 0.

    Source: van den Oord, Li, Vinyals 2018, arXiv:1807.03748.
    """
    if left.shape != right.shape or left.ndim != 2 or len(left) < 2 or temperature <= 0:
        raise InvalidInput(
            f"no contrast of {list(left.shape)} and {list(right.shape)} at temperature {temperature}",
            hint="give two (n, features) with n >= 2, and a temperature above 0",
        )
    alike = functional.normalize(left, dim=1) @ functional.normalize(right, dim=1).T / temperature
    own = torch.arange(len(left), device=left.device)
    return (functional.cross_entropy(alike, own) + functional.cross_entropy(alike.T, own)) / 2


def distillation(student: Tensor, teacher: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Divergence of the student's softened classes from the teacher's, times the temperature squared, in nats.

    Args:
        student, teacher: (..., classes) logits; the teacher gets no gradient.

    Raises:
        InvalidInput: the shapes differ, or the temperature is not above 0.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531.
    """
    if student.shape != teacher.shape or temperature <= 0:
        raise InvalidInput(
            f"a student of {list(student.shape)}, a teacher of {list(teacher.shape)}, temperature {temperature}",
            hint="give logits of one shape, and a temperature above 0",
        )
    learnt = functional.log_softmax(student.flatten(0, -2) / temperature, dim=-1)
    taught = functional.log_softmax(teacher.detach().flatten(0, -2) / temperature, dim=-1)
    return functional.kl_div(learnt, taught, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True)
class MultiObjective:
    """A weighted sum of named losses.

    Raises:
        InvalidInput: there is none, or a weight is negative or not finite.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.weights or any(not isfinite(w) or w < 0 for w in self.weights.values()):
            raise InvalidInput(f"no sum by the weights {dict(self.weights)}", hint="give finite weights from 0 up")

    def __call__(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(their sum, each part with its weight). A part that is not finite makes the sum so, whatever its weight.

        Raises:
            InvalidInput: the parts are not those of the weights.
        """
        if set(parts) != set(self.weights):
            raise InvalidInput(
                f"parts {sorted(parts)} for weights of {sorted(self.weights)}", hint="give a loss for each weight"
            )
        weighted = {name: parts[name] * self.weights[name] for name in sorted(parts)}
        return torch.stack(list(weighted.values())).sum(), weighted
