"""Input shapes that the user states, where a model does not say them or says that they vary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from passes.dataset import Array
from passes.signature import TensorSpec
from targets.errors import InvalidInput

__all__ = ["parse_input", "stated", "zeros"]


def parse_input(text: str) -> TensorSpec:
    """`[name=]1x3x224x224[:dtype]` as a TensorSpec; letters are dimensions that vary.

    Raises:
        InvalidInput: it does not read like that.
    """
    name, _, rest = text.rpartition("=")
    shape, _, dtype = rest.partition(":")
    try:
        dims = tuple(int(d) if d.lstrip("-").isdigit() else _symbol(d) for d in shape.split("x"))
        if any(isinstance(d, int) and d < 1 for d in dims):
            raise ValueError("sizes must be positive")
        return TensorSpec(name, np.dtype(dtype or "float32").name, dims)
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"--input {text!r}: {error}", hint="write it like image=1x3x224x224 or ids=1x16:int64"
        ) from error


def _symbol(text: str) -> str:
    if not text.isidentifier():
        raise ValueError(f"{text!r} is neither a size nor a name")
    return text


def stated(spec: TensorSpec, stated: Sequence[TensorSpec]) -> TensorSpec:
    for other in stated:
        if other.name in (spec.name, "") and len(other.shape) == len(spec.shape):
            return TensorSpec(spec.name, spec.dtype, other.shape)
    return spec


def zeros(spec: TensorSpec) -> Array:
    """A sample of a spec's shape; a varying first dimension counts one, others two: one could be taken for fixed."""
    shape = tuple(d if isinstance(d, int) else 1 if i == 0 else 2 for i, d in enumerate(spec.shape))
    return np.zeros(shape, spec.dtype)
