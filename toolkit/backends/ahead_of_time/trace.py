"""What a lowered graph does, as plain data: tensors, constants, and kernels called in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from passes.dataset import Array

__all__ = ["Call", "Kernel", "Tensor", "Trace"]


@dataclass(frozen=True)
class Tensor:
    """A tensor of static shape; `dtype` is numpy's name. Views of it are not tensors: calls name what they look at."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Kernel:
    """A function of pointers: numpy's names of what they point at, and the bytes it asks for while it runs.

    `source` is the C of those that TVM did not compile.
    """

    name: str
    parameters: tuple[str, ...]
    scratch_bytes: int
    source: str = ""


@dataclass(frozen=True)
class Call:
    """One kernel on tensors, inputs or constants by name, results last."""

    kernel: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """The whole network. Names are unique over inputs, intermediates and constants.

    Args:
        inputs: What the caller gives, in the order of the signature.
        results: What each output of the network is, in the order of the signature: a name of any of the others.
        outputs: The outputs as the signature names them.
        intermediates: Tensors that kernels write, results among them.
        constants: Weights and folded values.
        kernels: By name, each that `calls` name.
        calls: In the order of execution.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    results: tuple[str, ...]
    intermediates: tuple[Tensor, ...]
    constants: Mapping[str, Array]
    kernels: Mapping[str, Kernel]
    calls: tuple[Call, ...]
