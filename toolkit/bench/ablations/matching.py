"""A transformer of as many parameters as something else, and what both compute for one batch."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from passes.context import Batch
from targets.errors import InvalidInput
from toolkit.models import transformer

__all__ = ["flops_of", "match", "parameters_of"]

_WITHIN = 0.02
_EIGHT = 8
"""Products of other widths than multiples of this are up to twice as slow on a GPU."""
_AS_NEAR = 0.002


def parameters_of(model: nn.Module) -> int:
    """All of them."""
    return sum(p.numel() for p in model.parameters())


def match(
    parameters: float, *, vocabulary: int, width: int, heads: int, layers: int, context: int, seed: int = 0
) -> transformer.Config:
    """A transformer of `parameters` to within 2 %: its hidden features make up the difference, in eights where that is
    as near as a fifth of a percent.

    Raises:
        InvalidInput: attention alone has more, or whole hidden features cannot come that near.
    """
    base = transformer.Config(vocabulary=vocabulary, width=width, blocks=layers, heads=heads, hidden=1, context=context,
                              seed=seed)  # fmt: skip
    each = layers * (2 * width + 1)
    hidden = 1 + round((parameters - parameters_of(transformer.build(base))) / each)
    for features, within in ((_EIGHT * round(hidden / _EIGHT), _AS_NEAR), (hidden, _WITHIN)):
        if features >= 1:
            found = base.model_copy(update={"hidden": features})
            if abs(parameters_of(transformer.build(found)) / parameters - 1) <= within:
                return found
    raise InvalidInput(
        f"no transformer of width {width} and {layers} blocks has {parameters:.0f} parameters within 2 %",
        hint="choose another width or other blocks",
    )


def flops_of(model: nn.Module, batch: Batch) -> int:
    """FLOPs of the products with weights of one forward pass, by torch's counter. Scores of attention are left out on
    every device: torch counts its own on a GPU alone, and those of `kernels` nowhere."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*batch[0].values())
    counted = counter.get_flop_counts()["Global"]
    return sum(int(flops) for op, flops in counted.items() if op in (torch.ops.aten.mm, torch.ops.aten.addmm))
