"""How each ONNX operator is written: one table, put together from one file a family."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.backends.litert.lowering import Lower
from toolkit.backends.litert.operators import (
    arithmetic,
    branches,
    convolutions,
    functions,
    movements,
    normalizations,
    pooling,
    products,
    recurrence,
    reductions,
    resizing,
    rounding,
)

__all__ = ["OPERATORS"]

_FAMILIES = (
    arithmetic, branches, convolutions, functions, movements, normalizations, pooling, products, recurrence, reductions,
    resizing, rounding,
)  # fmt: skip

OPERATORS: Mapping[str, Lower] = {name: lower for family in _FAMILIES for name, lower in family.LOWERINGS.items()}
"""Every operator that can be written, by its ONNX name."""
