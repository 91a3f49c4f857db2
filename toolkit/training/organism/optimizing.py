"""AdamW that follows a pool: a newborn's parameters come in with a state of their own, a dead one's go with theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from toolkit.organism.pseudopod import Pseudopod

__all__ = ["PoolAdamW", "pool_adamw"]

_BASE = ""
"""Of the groups that belong to no component."""


def pool_adamw(model: nn.Module, rate: float, weight_decay: float) -> PoolAdamW:
    """For `Trainer(optimizer=...)`."""
    return PoolAdamW(model, rate, weight_decay)


class PoolAdamW(torch.optim.AdamW):
    """Groups by component, matrices apart from vectors and scalars, which do not decay; `share` scales a group's rate.

    A newborn's group has `share` rise to 1 over `warm_up` calls of `grow`. Groups of one rate and decay are updated in
    one call, which changes no bit: hundreds of small ones would take longer than the step that they follow.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """

    def __init__(self, model: nn.Module, rate: float, weight_decay: float, *, warm_up: int = 100) -> None:
        self._model, self._decay, self._warm_up = model, weight_decay, warm_up
        super().__init__(list(self._wanted()), lr=rate, fused=True)

    def follow(self) -> None:
        """Take in the parameters of who was born, and let go of those of who died, with what was kept for them."""
        wanted = {_name(group): group for group in self._wanted()}
        gone = [group for group in self.param_groups if not _is_same(group, wanted.get(_name(group)))]
        self.param_groups[:] = [group for group in self.param_groups if not any(group is one for one in gone)]
        for parameter in (p for group in gone for p in group["params"]):
            self.state.pop(parameter, None)
        held = {_name(group) for group in self.param_groups}
        for name in sorted(set(wanted) - held):
            self.add_param_group({**wanted[name], "age": 0, "share": 1 / self._warm_up})

    def grow(self) -> None:
        """Let one step pass for newborn groups."""
        for group in self.param_groups:
            if group["age"] is not None:
                group["age"] += 1
                group["share"] = min(1.0, (group["age"] + 1) / self._warm_up)
                group["age"] = None if group["share"] == 1.0 else group["age"]

    def step(self, closure: Any = None) -> Any:
        """As AdamW's."""
        apart = self.param_groups
        alike: dict[tuple[float, float], dict[str, Any]] = {}
        for group in apart:
            held = alike.setdefault((group["lr"], group["weight_decay"]), {**group, "params": []})
            held["params"] += group["params"]
        self.param_groups = list(alike.values())
        try:
            return super().step(closure)
        finally:
            self.param_groups = apart

    def bytes_of(self, component: nn.Module) -> int:
        """What is kept for the parameters of `component`."""
        kept = (value for p in component.parameters() for value in self.state.get(p, {}).values())
        return sum(value.numel() * value.element_size() for value in kept if isinstance(value, torch.Tensor))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Groups are those of the pool as it is now, in the order in which the saved ones stood."""
        self.follow()
        order = [_name(group) for group in state_dict["param_groups"]]
        self.param_groups.sort(key=lambda group: order.index(_name(group)))
        super().load_state_dict(dict(state_dict))

    def _wanted(self) -> Iterator[dict[str, Any]]:
        components = {name: m for name, m in self._model.named_modules() if isinstance(m, Pseudopod)}
        owned = {id(p) for component in components.values() for p in component.parameters()}
        base = [p for p in self._model.parameters() if id(p) not in owned]
        for name, parameters in ((_BASE, base), *((n, list(c.parameters())) for n, c in sorted(components.items()))):
            yield from self._groups(name, parameters)

    def _groups(self, name: str, parameters: Sequence[nn.Parameter]) -> Iterator[dict[str, Any]]:
        for is_matrix, decay in ((True, self._decay), (False, 0.0)):
            if chosen := [p for p in parameters if (p.ndim > 1) == is_matrix]:
                yield {"params": chosen, "weight_decay": decay, "component": name, "is_matrix": is_matrix, "age": None,
                       "share": 1.0}  # fmt: skip


def _name(group: Mapping[str, Any]) -> tuple[str, bool]:
    return group["component"], group["is_matrix"]


def _is_same(group: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    return other is not None and [id(p) for p in group["params"]] == [id(p) for p in other["params"]]
