"""Numbers and settings of kernels as C writes them."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from toolkit.backends.ahead_of_time.integers.quantities import HIGHEST, LOWEST

__all__ = ["Range", "Window", "c_float"]


@dataclass(frozen=True)
class Range:
    """What results become: see `integers.h`."""

    zero: int
    low: int = LOWEST
    high: int = HIGHEST

    def __str__(self) -> str:
        return f"{{{self.zero}, {self.low}, {self.high}}}"

    @property
    def literal(self) -> str:
        """As an argument of a call."""
        return f"(integers_range){self}"


@dataclass(frozen=True, kw_only=True)
class Window:
    """The fields of `integers_window`, in its order."""

    images: int
    in_height: int
    in_width: int
    in_channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel_height: int = 1
    kernel_width: int = 1
    stride_height: int = 1
    stride_width: int = 1
    dilation_height: int = 1
    dilation_width: int = 1
    top: int = 0
    left: int = 0
    groups: int = 1
    depth: int = 0
    rows: int = 0
    careful: int = 0
    zero: int = 0
    range: Range = Range(0)

    @property
    def declared(self) -> str:
        values = [*astuple(self)[:-1], self.range]
        return f"static const integers_window window = {{{', '.join(map(str, values))}}};"


def c_float(value: float | np.floating) -> str:
    """A float32 constant with every digit."""
    return f"{np.float32(value):.9e}f"
