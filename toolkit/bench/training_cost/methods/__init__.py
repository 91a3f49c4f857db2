"""The ablations, a file a method, each with its `ABLATION`; finding their names imports none of them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from targets.errors import UnknownName
from toolkit.bench.training_cost.ablation import Ablation

__all__ = ["ablation", "names"]


def names() -> list[str]:
    """Every method, sorted."""
    return sorted(module.name for module in iter_modules(__path__))


def ablation(name: str) -> Ablation:
    """The ablation of the method called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in names():
        raise UnknownName("method", name, names())
    found: Ablation = import_module(f"{__name__}.{name}").ABLATION
    return found
