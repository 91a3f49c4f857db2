"""Ids that a language model can read, and in what words others are refused."""

from __future__ import annotations

import torch
from torch import Tensor

from targets.errors import InvalidInput
from toolkit.models.blueprints.sizes import tracing

__all__ = ["check_ids"]


def check_ids(ids: Tensor, vocabulary: int, context: int | None) -> None:
    """Nothing, where `ids` are int64 (batch, length), at least one, at most `context` long, and below `vocabulary`.

    Values are looked at on the CPU alone, and not while a model is exported or compiled: on a GPU a look waits for it.
    A trace knows no sizes.

    Raises:
        InvalidInput: they are not.
    """
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise InvalidInput(
            f"ids must be int64 (batch, length), got {ids.dtype} {tuple(ids.shape)}",
            hint="ids[None] makes a batch of one sequence, .long() whole numbers of 64 bits",
        )
    if tracing():
        return
    if 0 in ids.shape:
        raise InvalidInput(f"no ids to read: {tuple(ids.shape)}", hint="give sequences of at least one id")
    if context is not None and ids.shape[1] > context:
        raise InvalidInput(
            f"{ids.shape[1]} ids, and the position table has {context} rows",
            hint="cut the sequence or raise context; a resnet_bk with positions = 'none' takes any length",
        )
    if ids.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(value) for value in torch.aminmax(ids))
        if low < 0 or high >= vocabulary:
            raise InvalidInput(
                f"ids from {low} to {high}, and the vocabulary has 0 to {vocabulary - 1}",
                hint="map unknown ids to one of the vocabulary, or raise vocabulary",
            )
