"""Which ablations there are; finding their names imports none of them."""

from __future__ import annotations

from importlib import import_module

from targets.errors import UnknownName
from toolkit.bench.ablations.ablation import Ablation

__all__ = ["ablation", "names"]

_FILES = {
    "A1": "against_transformer",
    "A2": "births",
    "A3": "lifecycle",
    "A4": "placement",
    "A4-measured": "placement_measured",
    "A5": "efficiency",
    "A6": "fitness",
    "A7": "behavior_space",
    "A9": "codecs",
    "A10": "damage",
    "A11": "noise",
}


def names() -> tuple[str, ...]:
    """In order. A8 is not among them: it is `python -m toolkit.bench.search`."""
    return tuple(_FILES)


def ablation(name: str) -> Ablation:
    """The ablation called `name`, in either case.

    Raises:
        UnknownName: there is none.
    """
    file = {known.upper(): file for known, file in _FILES.items()}.get(name.upper())
    if file is None:
        raise UnknownName("ablation", name, names())
    found: Ablation = import_module(f"toolkit.bench.ablations.{file}").ABLATION
    return found
