"""What routers say while a network runs: heard, counted and overruled where their weights are multiplied.

A mode of torch's sees every call of the library, so that a router is heard whether it is an `nn.Linear` or a module
that multiplies its own weight, and whatever it makes of the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Routing", "Watching", "never"]

_CHOOSING = {torch.topk, Tensor.topk}
_CHOOSING_ONE = {torch.argmax, Tensor.argmax, torch.max, Tensor.max}


class Watching(TorchFunctionMode):
    """Notes, in order, which weights are multiplied and which calls choose among how many.

    Attributes:
        products: (when, id of the weight) of each linear product.
        choices: (when, number chosen from, number chosen) of each choice along the last axis.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0
        self.products: list[tuple[int, int]] = []
        self.choices: list[tuple[int, int, int]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        self._calls += 1
        if func is nn.functional.linear:
            self.products.append((self._calls, id(_argument(args, given, 1, "weight"))))
        elif func in _CHOOSING:
            self._chose(args, given, int(_argument(args, given, 1, "k")))
        elif func in _CHOOSING_ONE and _argument(args, given, 1, "dim") is not None:
            self._chose(args, given, 1)
        return func(*args, **given)

    def _chose(self, args: tuple[Any, ...], given: Mapping[str, Any], chosen: int) -> None:
        among = _argument(args, given, 0, "input")
        self.choices.append((self._calls, among.shape[-1], chosen))


class Routing(TorchFunctionMode):
    """Hands what each of `routers` says to `hear`, and goes on with what that returns.

    Args:
        routers: Weights by name; (experts, features) each.
        hear: From a router's name and its logits, (..., experts), to the logits to go on with.
    """

    def __init__(self, routers: Mapping[str, Tensor], hear: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self._names = {id(weight): name for name, weight in routers.items()}
        self._hear = hear

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        made = func(*args, **given)
        if func is nn.functional.linear:
            name = self._names.get(id(_argument(args, given, 1, "weight")))
            if name is not None:
                return self._hear(name, made)
        return made


def never(gone: Mapping[str, Sequence[int]]) -> Callable[[str, Tensor], Tensor]:
    """A hearing that lets no router choose the experts in `gone`: a softmax or a sigmoid of theirs is zero."""

    def hear(name: str, logits: Tensor) -> Tensor:
        overruled = logits.clone()
        overruled[..., list(gone.get(name, ()))] = torch.finfo(logits.dtype).min / 4
        return overruled

    return hear


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)
