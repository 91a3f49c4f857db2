"""Every operator by name, and which of its forms runs for a call, and why.

>>> from kernels import registry
>>> print(registry.why("row_correlation", x, y))
triton: takes rows 64, n 1000; float32 on NVIDIA H100 80GB HBM3 (sm_90)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

from kernels.dispatch import Call, Choice, Operator

__all__ = ["OPERATORS", "choose", "why"]


@dataclass(frozen=True)
class Entry:
    """Where an operator is described: the module of its forms, their name in it, and what makes a call of arguments."""

    module: str
    operator: str
    call: str


OPERATORS = MappingProxyType(
    {
        "attention": Entry("kernels.attention.operators", "ATTENTION", "attention_call"),
        "tile_means": Entry("kernels.tile_means.operators", "PRIORITY", "means_call"),
        "row_correlation": Entry("kernels.correlation.rows.operators", "ROWS", "row_call"),
        "quantize_rows": Entry("kernels.int8_linear.operators", "QUANTIZE", "rows_call"),
        "linear_w8a8": Entry("kernels.int8_linear.operators", "LINEAR", "layer_call"),
        "linear_int4": Entry("kernels.int4_linear.operators", "LINEAR", "layer_call"),
        "moe": Entry("kernels.moe.operators", "EXPERTS", "experts_call"),
        "correlation": Entry("kernels.correlation.columns.operators", "COLUMNS", "columns_call"),
        "bk_core": Entry("kernels.bk_core.operators", "FORWARD", "call"),
        "bk_one_sided": Entry("kernels.bk_core.one_sided.operators", "FORWARD", "call"),
        "effective_rank.participation": Entry("kernels.effective_rank.operators", "PARTICIPATION", "rank_call"),
        "effective_rank.entropy": Entry("kernels.effective_rank.operators", "ENTROPY", "rank_call"),
        "effective_rank.stable": Entry("kernels.effective_rank.operators", "STABLE", "rank_call"),
    }
)


def choose(name: str, *arguments: Any, **options: Any) -> Choice:
    """The form of operator `name` that would run for these arguments, and why not the others.

    Raises:
        ValueError: there is no such operator.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.
    """
    if name not in OPERATORS:
        raise ValueError(f"unknown operator {name!r}; known: {', '.join(OPERATORS)}")
    entry = OPERATORS[name]
    module = import_module(entry.module)
    operator: Operator[Any] = getattr(module, entry.operator)
    call: Callable[..., Call] = getattr(module, entry.call)
    return operator.choose(call(*arguments, **options))


def why(name: str, *arguments: Any, **options: Any) -> str:
    """`choose`, to be read."""
    return str(choose(name, *arguments, **options))
