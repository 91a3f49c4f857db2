"""What comes with the toolkit, as plain data: every network of the zoo, and all that is known of one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import getdoc
from typing import Any

from toolkit.models.registry import Entry, Family, configured, entries

__all__ = ["describe_model", "list_models"]


def list_models() -> list[dict[str, Any]]:
    """Every network, by family: name, summary, use case, targets. Nothing is built or imported."""
    families: tuple[Family, ...] = ("example", "blueprint", "language")
    return [_head(made) for family in families for made in entries(family)]


def describe_model(name: str, *, progress: Callable[[str, float], None] = lambda step, done: None) -> dict[str, Any]:
    """One network: inputs, outputs, parameters, MACs, and what its config may say.

    Args:
        name: As it is built by default, or NAME@width=16 with other settings.

    Raises:
        UnknownName: there is none.
        InvalidInput: a setting does not exist, has another type, or is out of its range.
    """
    from toolkit.inspection import inspect_model
    from toolkit.models.blueprints.config import settings

    made, config = configured(name)
    progress("building the network", 0.0)
    kind = made.config_type()
    model = made.build(config)
    found = inspect_model(name, progress=progress)
    return {
        **_head(made),
        "trained": made.is_trained,
        "inputs": found["signature"]["inputs"],
        "outputs": found["signature"]["outputs"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": found["macs"],
        "weight_bytes": found["weight_bytes"],
        "config": [{**vars(s), "value": getattr(config or kind(), s.name)} for s in settings(kind)] if kind else [],
        "description": _description(made),
    }


def _head(made: Entry) -> dict[str, Any]:
    return {
        "name": made.name,
        "family": made.family,
        "summary": made.summary,
        "use_case": made.use_case,
        "targets": list(made.targets),
        "refused": dict(made.refused),
    }


def _description(made: Entry) -> list[str]:
    """The paragraphs of the module's docstring, its sources at the end."""
    text = getdoc(import_module(made.module)) or ""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
