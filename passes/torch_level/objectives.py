"""What a network is trained towards: its labels, or the answers of a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from passes.torch_level.capture import flatten
from targets.errors import InvalidInput

if TYPE_CHECKING:
    from passes.context import Batch

__all__ = ["Aim", "Objective"]

Aim = Literal["auto", "labels", "reference", "both"]


class Objective(nn.Module):
    """A loss as `passes.context.Fit` wants it.

    Args:
        aim: "labels": cross entropy of the first output. "reference": mean squared difference of each output from the
            reference's, in units of its mean square. "both": the sum of cross entropy and of the divergence of the
            first output's distribution from the reference's. "auto": both where there are labels, else the reference.
        reference: Takes what the trained module takes.
        temperature: Softens both distributions, for "both".

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """

    def __init__(self, aim: Aim, reference: nn.Module, temperature: float = 2.0) -> None:
        super().__init__()
        self.aim, self.reference, self.temperature = aim, reference, temperature

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss, a scalar.

        Raises:
            InvalidInput: there are no labels, and they are asked for.
        """
        inputs, labels = batch
        answers = flatten(model(*inputs.values()))
        if labels is None and self.aim in ("labels", "both"):
            raise InvalidInput("the data have no labels to train with", hint='train with aim: "reference"')
        if labels is None or self.aim == "reference":
            return self._distance(answers, inputs.values())
        loss = nn.functional.cross_entropy(_rows(answers[0], labels), labels.flatten())
        return loss if self.aim == "labels" else loss + self._divergence(answers[0], labels, inputs.values())

    def _truths(self, inputs: object) -> list[Tensor]:
        with torch.no_grad():
            return flatten(self.reference(*inputs))  # type: ignore[misc]

    def _distance(self, answers: list[Tensor], inputs: object) -> Tensor:
        pairs = [(a, t) for a, t in zip(answers, self._truths(inputs), strict=True) if a.is_floating_point()]
        parts = [(a - t).square().mean() / t.square().mean().clamp(min=1e-12) for a, t in pairs]
        return torch.stack(parts).sum()

    def _divergence(self, answer: Tensor, labels: Tensor, inputs: object) -> Tensor:
        soft = nn.functional.log_softmax(_rows(answer, labels) / self.temperature, 1)
        truth = nn.functional.log_softmax(_rows(self._truths(inputs)[0], labels) / self.temperature, 1)
        divergence = nn.functional.kl_div(soft, truth, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2


def _rows(answer: Tensor, labels: Tensor) -> Tensor:
    """The classes of each label, a row each."""
    return answer.reshape(labels.numel(), -1)
