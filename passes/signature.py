"""What goes in and what comes out: names, element types, shapes, and which dimensions may vary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from targets.errors import InvalidInput

__all__ = ["Signature", "TensorSpec"]

Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One tensor. `dtype` is numpy's name; a dimension that may vary is a string, the name of its symbol."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def accepts(self, array: np.ndarray[Any, Any]) -> str:
        """Why `array` does not fit, or an empty string."""
        if array.dtype.name != self.dtype:
            return f"{self.name} wants {self.dtype}, got {array.dtype.name}"
        if array.ndim != len(self.shape) or any(
            isinstance(want, int) and want != have for want, have in zip(self.shape, array.shape, strict=False)
        ):
            return f"{self.name} wants shape {list(self.shape)}, got {list(array.shape)}"
        return ""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model, in order. No pass may change it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def check_inputs(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Refuse inputs that the model cannot take.

        Raises:
            InvalidInput: a name is missing or unknown, or an array has the wrong type or shape.
        """
        wanted = [spec.name for spec in self.inputs]
        if sorted(arrays) != sorted(wanted):
            raise InvalidInput(
                f"the model takes {', '.join(wanted)}; got {', '.join(sorted(arrays)) or 'nothing'}",
                hint="name the arrays as the model names its inputs; `toolkit inspect` lists them",
            )
        for spec in self.inputs:
            if problem := spec.accepts(arrays[spec.name]):
                raise InvalidInput(problem, hint=f"convert the data; the model's input is {spec}")

    def to_json(self) -> dict[str, Any]:
        return {"inputs": [s.to_json() for s in self.inputs], "outputs": [s.to_json() for s in self.outputs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        return cls(*(tuple(_spec(s) for s in data[key]) for key in ("inputs", "outputs")))


def _spec(data: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(data["name"]), str(data["dtype"]), tuple(data["shape"]))
