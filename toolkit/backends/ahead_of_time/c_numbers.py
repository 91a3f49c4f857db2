"""TVM writes floating-point constants into C with seven digits, two too few for float32: the others are put back."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

__all__ = ["with_exact_numbers"]

_NUMBER = re.compile(r"(?<![\w.])\d\.\d{6}e[+-]\d{2,3}f?(?![\w.])")
_SUFFIX_AND_DIGITS = {"float32": ("f", 8), "float64": ("", 16)}


def with_exact_numbers(code: str, numbers: Iterable[tuple[str, float]]) -> str:
    """The code with each constant in full, where `numbers` are the (type, value) of those that it holds.

    Two constants that agree in seven digits cannot be told apart in the text, and stay as they are.
    """
    exact: dict[str, set[str]] = {}
    for dtype, value in numbers:
        if dtype in _SUFFIX_AND_DIGITS and np.isfinite(value):
            suffix, digits = _SUFFIX_AND_DIGITS[dtype]
            exact.setdefault(f"{abs(value):.6e}{suffix}", set()).add(f"{abs(value):.{digits}e}{suffix}")
    known = {short: next(iter(full)) for short, full in exact.items() if len(full) == 1}
    return _NUMBER.sub(lambda match: known.get(match[0], match[0]), code)
