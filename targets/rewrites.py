"""What to write instead of an operator that an accelerator refuses, where a remedy is known: `rewrites.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

__all__ = ["rewrite_for"]


def rewrite_for(op_type: str, reason: str) -> str:
    """The remedy for an operator that was refused for `reason`, or an empty string where none is known."""
    tables = _tables()
    for part, remedy in tables["reasons"].items():
        if part in reason:
            return remedy
    return tables["operators"].get(op_type, "")


@cache
def _tables() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads(files("targets").joinpath("rewrites.toml").read_text("utf-8"))
