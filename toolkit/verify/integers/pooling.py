"""Averages: over windows and over whole images."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.verify.integers.calls import Operator

__all__ = ["OPERATORS"]

OPERATORS: Mapping[str, Operator] = {}
