"""What a trained network gives to another: its weights, and which layers of them learn when.

Source: Howard and Ruder 2018, arXiv:1801.06146 (gradual unfreezing, and rates that fall towards the inputs);
Yosinski et al. 2014, arXiv:1411.1792 (layers near the inputs are general).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from targets.errors import InvalidInput
from toolkit.training.optimizing import optimizer_for

__all__ = ["GradualThaw", "LayerRates", "layer_groups", "transplant"]


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Names of parameters by group, from the outputs to the inputs: those of each child that has any, in the order in
    which the model holds them; members of a list or chain count as children."""
    owners: dict[str, list[str]] = {}
    chains = {name for name, module in model.named_modules() if isinstance(module, (nn.ModuleList, nn.Sequential))}
    for name, _ in model.named_parameters():
        parts = name.split(".")
        depth = 1
        while ".".join(parts[:depth]) in chains or ("" in chains and depth < 1):
            depth += 1
        owners.setdefault(".".join(parts[: min(depth, len(parts) - 1)]), []).append(name)
    return list(reversed(owners.values()))


@dataclass(frozen=True)
class GradualThaw:
    """Implements `toolkit.training.thawing.Thaw`: the last group learns first, `every` epochs later the one before it.

    Norms of a frozen group keep the means that they came with. With `every` 0 all groups learn from the start.
    """

    every: int = 1

    @property
    def key(self) -> str:
        """See `Thaw`."""
        return f"gradual thaw {self.every}"

    def apply(self, model: nn.Module, epoch: int) -> None:
        """See `Thaw`."""
        groups = layer_groups(model)
        learning = len(groups) if self.every == 0 else min(len(groups), 1 + epoch // self.every)
        frozen = {name for group in groups[learning:] for name in group}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                module.train(f"{name}.weight".lstrip(".") not in frozen)


@dataclass(frozen=True)
class LayerRates:
    """Makes AdamW whose rate falls by `decay` from each group to the one before it; see `layer_groups`."""

    decay: float

    @property
    def key(self) -> str:
        """See `toolkit.training.optimizing.name_of`."""
        return f"layer rates {self.decay!r}"

    def __call__(self, model: nn.Module, rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """See `toolkit.training.optimizing.MakeOptimizer`."""
        shares = {name: self.decay**i for i, group in enumerate(layer_groups(model)) for name in group}
        plain = optimizer_for(model, rate, weight_decay)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = [
            {"params": [p], "weight_decay": group["weight_decay"], "share": shares[names[id(p)]]}
            for group in plain.param_groups
            for p in group["params"]
        ]
        return torch.optim.AdamW(groups, lr=rate)


def transplant(source: nn.Module, model: nn.Module) -> Sequence[str]:
    """Copy every weight that both have under one name and in one shape. Returns the names of those that `model` keeps.

    Raises:
        InvalidInput: they have none in common.
    """
    given, wanted = source.state_dict(), model.state_dict()
    alike = {name for name in given if name in wanted and _kind(given[name]) == _kind(wanted[name])}
    if not alike & {name for name, _ in model.named_parameters()}:
        raise InvalidInput(
            "the two networks have no weight of one name and shape in common",
            hint="start from a network of the same kind; its outputs may differ",
        )
    model.load_state_dict({name: given[name] for name in sorted(alike)}, strict=False)
    return sorted(set(wanted) - alike)


def _kind(weight: Tensor) -> tuple[torch.Size, torch.dtype]:
    return weight.shape, weight.dtype
