"""A network on its way into the file: tensors, the operators between them, and what goes in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from passes.dataset import Array

__all__ = ["Draft", "Operator", "Quantization", "Tensor"]


@dataclass(frozen=True)
class Quantization:
    """Real numbers are scale x (stored - zero_point), with a scale for each index of `axis` where there are more."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0

    @classmethod
    def of(cls, scale: float, zero_point: int) -> Quantization:
        """For a whole tensor; `scale` is rounded to float32, as the file holds it."""
        return cls((float(np.float32(scale)),), (zero_point,))

    @property
    def whole(self) -> bool:
        """Whether one scale holds for the whole tensor."""
        return len(self.scale) == 1

    @property
    def symmetric(self) -> bool:
        return not any(self.zero_point)

    @property
    def step(self) -> float:
        """The one scale of a whole tensor."""
        assert self.whole
        return self.scale[0]

    @property
    def lowest(self) -> float:
        """The smallest number that int8 can hold; the largest is `highest`."""
        return (-128 - self.zero_point[0]) * self.step

    @property
    def highest(self) -> float:
        return (127 - self.zero_point[0]) * self.step

    def real(self, stored: Array) -> Array:
        """The numbers that `stored` stands for, in float32 arithmetic like that of DequantizeLinear."""
        along = [1] * stored.ndim
        if not self.whole:
            along[self.axis] = -1
        scale = np.asarray(self.scale, np.float32).reshape(along)
        zero = np.asarray(self.zero_point, np.int32).reshape(along)
        real: Array = (stored.astype(np.int32) - zero).astype(np.float32) * scale
        return real


@dataclass(eq=False)
class Tensor:
    """`dtype` is numpy's name; `data` are the values of a constant, in this shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    data: Array | None = None


@dataclass(eq=False)
class Operator:
    """`code` as the schema names it; `options` are fields of its table. An input that is left out is None.

    `bodies` are networks of their own by the option that gives their number: of a branch, whose inputs are those of the
    operator behind its condition.
    """

    code: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    bodies: Mapping[str, Draft] = field(default_factory=dict)


@dataclass
class Draft:
    """Operators in the order in which they run."""

    operators: list[Operator] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def without_dead_code(self) -> Draft:
        """The same network without operators whose results nobody reads."""
        wanted = {id(tensor) for tensor in self.outputs.values()}
        kept = []
        for operator in reversed(self.operators):
            if any(id(tensor) in wanted for tensor in operator.outputs):
                kept.append(operator)
                wanted |= {id(tensor) for tensor in operator.inputs}
        return Draft(kept[::-1], self.inputs, self.outputs)
