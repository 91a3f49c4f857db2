"""What the model is trained for: the next id where it is causal, hidden ids where it sees both sides.

G[i, i] of a whole chain depends on every site, so a model of both sides that were asked for the next id would read the
answer off its input. It is asked for ids that it cannot see instead (Devlin et al. 2019, arXiv:1810.04805).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from passes.dataset import UNASKED
from targets.errors import UsageError
from toolkit.models.resnet_bk.model import Answer, ResNetBK

__all__ = ["filled_in", "hidden_ids", "next_id"]


def next_id(model: ResNetBK, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of (B, N) labels, the ids behind `ids`, in nats, and what the options cost.

    Raises:
        UsageError: the model sees both sides.
    """
    if model.config.mode != "causal":
        raise UsageError(
            "a model of both sides sees the next id", hint="train it on hidden ids, or build it with mode = 'causal'"
        )
    answer = model.answer(ids)
    return cross_entropy(_wide(answer.logits).flatten(0, 1), labels.flatten()) + _options(model, answer)


def hidden_ids(model: ResNetBK, ids: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Mean cross entropy of the ids of (B, N) that were hidden from the model, a `share` that `generator` draws on the
    CPU; at least one.

    Raises:
        UsageError: the model is causal, which has no sign for a hidden id.
    """
    if model.config.mode != "both_sides":
        raise UsageError("a causal model has no id for hidden ones", hint="build it with mode = 'both_sides'")
    hidden = torch.rand(ids.shape, generator=generator) < share
    hidden.view(-1)[int(torch.randint(hidden.numel(), (), generator=generator))] = True
    hidden = hidden.to(ids.device)
    return filled_in(model, ids.masked_fill(hidden, model.config.vocabulary), ids.masked_fill(~hidden, UNASKED))


def filled_in(model: ResNetBK, shown: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of (B, N) labels, the ids that `shown` hides and `UNASKED` elsewhere, in nats, and what the
    options cost."""
    answer = model.answer(shown)
    return cross_entropy(_wide(answer.logits).flatten(0, 1), labels.flatten()) + _options(model, answer)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _options(model: ResNetBK, answer: Answer) -> Tensor:
    config = model.config
    cost = config.balance_weight * (answer.balance - 1) + config.ponder_weight * answer.ponder
    return cost if config.kept_share == 1 else cost + (answer.density - config.kept_share).square()
