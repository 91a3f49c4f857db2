"""What a candidate is measured by: a name, a unit, a range, and the scale on which steps are even."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DescriptorError

__all__ = ["Floats", "Measure"]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One axis.

    Args:
        name: With its unit where it has one, as in `latency_s`.
        unit: SI, "1" for a share.
        low: Smallest value that has a place of its own.
        high: Largest one.
        transform: "log" for what spans decades, "logit" for shares near 0 or 1.
        larger_is: What a user wants of it; the archive itself takes no side.

    Raises:
        DescriptorError: `low` is not below `high`, or the transform is not defined there.
    """

    name: str
    unit: str
    low: float
    high: float
    transform: Literal["linear", "log", "logit"] = "linear"
    larger_is: Literal["better", "worse", "neutral"] = "neutral"

    def __post_init__(self) -> None:
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise DescriptorError(
                f"measure {self.name!r} goes from {self.low} to {self.high}", hint="low must be below high, both finite"
            )
        if self.transform == "log" and self.low <= 0:
            raise DescriptorError(
                f"measure {self.name!r} has no logarithm at {self.low}", hint="raise low above 0, or use 'linear'"
            )
        if self.transform == "logit" and not 0 < self.low < self.high < 1:
            raise DescriptorError(
                f"measure {self.name!r} has no logit from {self.low} to {self.high}", hint="low above 0, high below 1"
            )

    def stretch(self, raw: Floats) -> Floats:
        """`raw` (n,), inside the range, on the scale on which steps are even."""
        if self.transform == "log":
            return np.log(raw)
        if self.transform == "logit":
            stretched: Floats = np.log(raw / (1 - raw))
            return stretched
        return raw

    def unstretch(self, stretched: Floats) -> Floats:
        """The inverse of `stretch`."""
        if self.transform == "log":
            return np.exp(stretched)
        if self.transform == "logit":
            raw: Floats = 1 / (1 + np.exp(-stretched))
            return raw
        return stretched

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)
