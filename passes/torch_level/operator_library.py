"""torch's library of ONNX operators, read once: its exporter reads it anew at every export, half a second each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache, lru_cache
from typing import Any

__all__ = ["operators_read_once"]


@contextmanager
def operators_read_once() -> Iterator[None]:
    """Inside, an export takes a copy of what the first one of its opset read, until torch has other operators.

    What is imported late brings operators that were not there to be found before: `quantized_decomposed::*`, say.
    It stands in for a part of torch that is not public: where that has moved, exports take longer, and that is all.
    """
    registry, torchs_own, operators = _torchs_own()
    if torchs_own is None or operators is None:
        yield
        return
    registry.from_torchlib = staticmethod(_copied)
    try:
        yield
    finally:
        registry.from_torchlib = torchs_own


@cache
def _torchs_own() -> tuple[Any, Any, Any]:
    """The exporter's registry of operators, its class method that fills one, and what names torch's operators.

    Each is None where it is not.
    """
    try:
        import torch
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return None, None, None
    return ONNXRegistry, vars(ONNXRegistry).get("from_torchlib"), getattr(torch._C, "_dispatch_get_all_op_names", None)


def _copied(*, opset_version: int) -> Any:
    """An export may add to the registry that it was given."""
    _, _, operators = _torchs_own()
    found = copy(_read(opset_version, frozenset(operators())))
    found.functions = {operator: [*known] for operator, known in found.functions.items()}
    return found


@lru_cache(maxsize=2)
def _read(opset_version: int, operators: frozenset[str]) -> Any:
    """`operators`: the names of all that torch has now, for which this is right."""
    registry, torchs_own, _ = _torchs_own()
    return torchs_own.__get__(None, registry)(opset_version=opset_version)
