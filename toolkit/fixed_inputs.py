"""Inputs that always have one value on the device: they become constants before the road begins.

A sample rate, a number of beams, a flag: `--fix sr=16000` takes the input out of the signature, and what hangs on it
(the branches of an If, above all) can be folded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.errors import InvalidInput, UnknownName

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Fixed", "fix_graph", "fix_module", "parse_fixed"]

Fixed = Mapping[str, float]


def parse_fixed(texts: Sequence[str]) -> Fixed:
    """`name=value` as a mapping; values are numbers, or true and false.

    Raises:
        InvalidInput: a text does not read like that.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = {"true": True, "false": False}[value] if value in ("true", "false") else _number(value)
        except ValueError as error:
            raise InvalidInput(f"--fix {text!r}: {error}", hint="write it like sr=16000 or flag=true") from error
        if not name:
            raise InvalidInput(f"--fix {text!r} names no input", hint="write it like sr=16000 or flag=true")
    return found


def _number(text: str) -> float:
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def fix_graph(model: Any, fixed: Fixed) -> None:
    """Turn inputs of an ONNX model into initializers, in place.

    Raises:
        UnknownName: the graph has no such input.
        InvalidInput: the input's size is not stated in the file, or its type does not hold the value.
    """
    from onnx import helper, numpy_helper

    known = {value.name: value for value in model.graph.input}
    for name, number in fixed.items():
        if name not in known:
            raise UnknownName("input", name, known)
        tensor = known[name].type.tensor_type
        if any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
            raise InvalidInput(f"input {name!r} has a varying size", hint="only inputs of a fixed size can be fixed")
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        value = np.full([d.dim_value for d in tensor.shape.dim], number, dtype)
        if value.size and value.reshape(-1)[0] != number:
            raise InvalidInput(f"--fix {name}={number}: {dtype} cannot hold it", hint=f"give a value of type {dtype}")
        model.graph.initializer.append(numpy_helper.from_array(value, name))
        model.graph.input.remove(known[name])


def fix_module(model: nn.Module, names: Sequence[str], fixed: Fixed, example: Any) -> tuple[nn.Module, list[str], Any]:
    """A module without the fixed parameters, the names it has left, and the example inputs for those.

    Raises:
        UnknownName: the module's forward has no such parameter.
    """
    for name in fixed:
        if name not in names:
            raise UnknownName("input", name, names)
    left = [name for name in names if name not in fixed]
    if isinstance(example, Mapping):
        example = {name: value for name, value in example.items() if name not in fixed}
    elif isinstance(example, (tuple, list)) and len(example) > len(left):
        example = tuple(value for name, value in zip(names, example, strict=False) if name not in fixed)
    return _without(model, names, fixed), left, example


def _without(model: nn.Module, names: Sequence[str], fixed: Fixed) -> nn.Module:
    from torch import nn

    class WithFixedInputs(nn.Module):
        """Calls the module with the fixed values in their places."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model
            self.training = model.training

        def forward(self, *inputs: Any) -> Any:
            given = iter(inputs)
            arguments = [fixed[name] if name in fixed else next(given, None) for name in names]
            while arguments and arguments[-1] is None:
                arguments.pop()  # parameters that have a default
            return self.inner(*arguments)

    return WithFixedInputs()
