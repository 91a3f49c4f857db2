"""A network of the zoo before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from targets.errors import InvalidInput
from toolkit.models.registry import Entry
from toolkit.models.seeded import seeded

if TYPE_CHECKING:
    from toolkit.models.blueprints.config import BlueprintConfig

__all__ = ["untrained"]


def untrained(found: Entry, config: BlueprintConfig | None, seed: int) -> nn.Module:
    """What `found` builds, with weights that no training has touched: the config's seed drew them, else `seed` does.

    Raises:
        InvalidInput: it comes with trained weights, and a part of it cannot be drawn anew.
    """
    model = found.build(config)
    if not found.is_trained:
        return model
    with seeded(seed):
        for name, module in model.named_modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise InvalidInput(
                    f"the weights of {name} in {found.name} cannot be drawn anew", hint="train another network"
                )
    return model
