"""What a network is trained on after it was changed: its labels, and the answers of the network that it came from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from passes.context import Batch
from passes.signature import Signature
from passes.torch_level.capture import flatten

__all__ = ["Teacher", "answers_of", "attention_distance", "feature_distance", "label_loss", "teacher_of"]

_SURE = 1e-3  # how far a sum of probabilities may lie from one


def answers_of(model: nn.Module, batch: Batch, signature: Signature) -> list[Tensor]:
    """The outputs of `model` for a batch, in order."""
    inputs, _ = batch
    answers: list[Tensor] = flatten(model(*(inputs[spec.name] for spec in signature.inputs)))
    return answers


def label_loss(logits: Tensor, labels: Tensor, *, probabilities: bool = False) -> Tensor:
    """Cross entropy of (batch, ...) logits, or probabilities, whose other axes together are the classes.

    Where labels are (batch, positions) there are classes for each position: logits are (batch, positions, classes).
    """
    flat, known = logits.reshape(labels.numel(), -1), labels.flatten().long()
    if probabilities:
        return functional.nll_loss(_log(flat), known)
    return functional.cross_entropy(flat, known)


class Teacher(nn.Module):
    """A loss: how far a network's answers to a batch are from those of one that is right, and from the labels.

    Args:
        model: The one that is right; as it is, in eval mode and without gradients.
        logits: Its outputs are classes, so that softened probabilities are compared; values are compared otherwise.
        probabilities: They are probabilities already.
        temperature: Softens the classes: Hinton, Vinyals, Dean 2015, arXiv:1503.02531.
        alpha: Weight of its answers against that of the labels, where there are any.
    """

    def __init__(
        self,
        model: nn.Module,
        signature: Signature,
        *,
        logits: bool,
        probabilities: bool,
        temperature: float = 2.0,
        alpha: float = 0.5,
    ) -> None:
        super().__init__()
        self.model, self.signature = model, signature
        self.logits, self.probabilities = logits, probabilities
        self.temperature, self.alpha = temperature, alpha

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of `model`, a scalar."""
        with torch.no_grad():
            theirs = answers_of(self.model, batch, self.signature)
        return self.compare(answers_of(model, batch, self.signature), theirs, batch[1])

    def compare(self, mine: Sequence[Tensor], theirs: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """The loss between two sets of answers."""
        pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if b.is_floating_point()]
        taught = torch.stack([self._soft(a, b) if self.logits else feature_distance(a, b) for a, b in pairs]).mean()
        if labels is None or self.alpha == 1:
            return taught
        known = label_loss(mine[0], labels, probabilities=self.probabilities)
        return self.alpha * taught + (1 - self.alpha) * known

    def _soft(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """T² times the divergence between the softened classes, which are the last axis."""
        a, b = (_log(x) if self.probabilities else x for x in (mine, theirs))
        a, b = (functional.log_softmax(x.float() / self.temperature, -1).flatten(0, -2) for x in (a, b))
        return self.temperature**2 * functional.kl_div(a, b, reduction="batchmean", log_target=True)


def teacher_of(
    model: nn.Module, signature: Signature, example: Sequence[Tensor], *, logits: bool, temperature: float = 2.0,
    alpha: float = 0.5,
) -> Teacher:  # fmt: skip
    """A teacher; whether it gives probabilities is seen from its answer to `example`."""
    with torch.no_grad():
        first = flatten(model(*example))[0]
    total = first.sum(-1) if first.is_floating_point() and first.ndim else torch.zeros(1)
    sums = bool((first >= 0).all()) and bool(((total - 1).abs() < _SURE).all())
    return Teacher(model, signature, logits=logits, probabilities=logits and sums, temperature=temperature, alpha=alpha)


def feature_distance(mine: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared difference, in units of the variance of `theirs`."""
    return functional.mse_loss(mine.float(), theirs.float()) / theirs.float().var(unbiased=False).clamp_min(1e-12)


def attention_distance(mine: Tensor, theirs: Tensor, axis: int) -> Tensor:
    """Mean squared distance of where two networks look: squares summed over channels, each map of length one.

    Source: Zagoruyko and Komodakis 2017, arXiv:1612.03928, equation 2.
    """
    maps = [functional.normalize(x.float().square().mean(axis).flatten(1)) for x in (mine, theirs)]
    return (maps[0] - maps[1]).square().sum(1).mean()


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
