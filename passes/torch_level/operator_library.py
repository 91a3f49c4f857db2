"""torch's library of ONNX operators, read once: its exporter reads it anew at every export, half a second each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import Any

__all__ = ["operators_read_once"]


@contextmanager
def operators_read_once() -> Iterator[None]:
    """Inside, an export takes a copy of what the first one of its opset read.

    It stands in for a part of torch that is not public: where that has moved, exports take longer, and that is all.
    """
    registry, torchs_own = _torchs_own()
    if torchs_own is None:
        yield
        return
    registry.from_torchlib = staticmethod(_copied)
    try:
        yield
    finally:
        registry.from_torchlib = torchs_own


@cache
def _torchs_own() -> tuple[Any, Any]:
    """The exporter's registry of operators, and its class method that fills one; None where they are not."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return None, None
    return ONNXRegistry, vars(ONNXRegistry).get("from_torchlib")


def _copied(*, opset_version: int) -> Any:
    """An export may add to the registry that it was given."""
    found = copy(_read(opset_version))
    found.functions = {operator: [*known] for operator, known in found.functions.items()}
    return found


@cache
def _read(opset_version: int) -> Any:
    registry, torchs_own = _torchs_own()
    return torchs_own.__get__(None, registry)(opset_version=opset_version)
