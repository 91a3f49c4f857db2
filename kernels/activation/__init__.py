"""What stands behind a matrix product, element by element: the functions and their slopes, by name.

Not an operator of its own: others compute it where their product ends.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

__all__ = ["ACTIVATIONS", "activated", "check_activation", "slope"]

_SQRT_HALF = 0.7071067811865476
_SQRT_2_PI = 2.5066282746310002


def _gelu_slope(x: Tensor) -> Tensor:
    """Of x Φ(x): Φ(x) + x φ(x)."""
    return (1 + torch.erf(x * _SQRT_HALF)) / 2 + x * torch.exp(-x * x / 2) / _SQRT_2_PI


def _silu_slope(x: Tensor) -> Tensor:
    """Of x σ(x): σ (1 + x (1 − σ))."""
    sigma = torch.sigmoid(x)
    return sigma * (1 + x * (1 - sigma))


_FUNCTIONS: MappingProxyType[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = MappingProxyType(
    {
        "none": (lambda x: x, torch.ones_like),
        "relu": (torch.relu, lambda x: (x > 0).to(x.dtype)),
        "gelu": (torch.nn.functional.gelu, _gelu_slope),
        "silu": (torch.nn.functional.silu, _silu_slope),
    }
)
ACTIVATIONS = tuple(_FUNCTIONS)


def activated(x: Tensor, name: str) -> Tensor:
    return _FUNCTIONS[name][0](x)


def slope(x: Tensor, name: str) -> Tensor:
    """The derivative at x."""
    return _FUNCTIONS[name][1](x)


def check_activation(name: str | None) -> str:
    """The name, "none" for None.

    Raises:
        ValueError: there is no such function.
    """
    if name is not None and name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return name or "none"
