"""Input shapes that the user states, where a model does not say them or says that they vary."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from passes.dataset import Array
from passes.signature import TensorSpec
from targets.errors import InvalidInput

__all__ = ["LARGEST_INPUT_BYTES", "parse_input", "stated", "zeros"]

LARGEST_INPUT_BYTES = 2**30
"""Sixteen frames of full HD video in float32 are 0.4 GB: what is far larger is a damaged file or a slip of the pen."""


def parse_input(text: str) -> TensorSpec:
    """`[name=]1x3x224x224[:dtype]` as a TensorSpec; names are dimensions that vary.

    Sizes are separated by x, or by commas, which names with an x in them need: `ids=batch,max_length:int64`.
    `scalar` has no dimensions.

    Raises:
        InvalidInput: it does not read like that.
    """
    name, _, rest = text.rpartition("=")
    shape, _, dtype = rest.partition(":")
    try:
        dims = tuple(int(d) if d.lstrip("-").isdigit() else _symbol(d) for d in _split(shape))
        if any(isinstance(d, int) and d < 1 for d in dims):
            raise ValueError("sizes must be positive")
        return TensorSpec(name, np.dtype(dtype or "float32").name, dims)
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"--input {text!r}: {error}",
            hint="write it like image=1x3x224x224, ids=1x16:int64 or ids=batch,max_length:int64",
        ) from error


def _split(shape: str) -> list[str]:
    if shape == "scalar":
        return []
    return [part.strip() for part in shape.split(",")] if "," in shape else shape.split("x")


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
    """A sample of a spec's shape; a varying first dimension counts one, others two: one could be taken for fixed.

    Raises:
        InvalidInput: it is larger than `LARGEST_INPUT_BYTES`, or has a negative size.
    """
    shape = tuple(d if isinstance(d, int) else 1 if i == 0 else 2 for i, d in enumerate(spec.shape))
    size = prod(shape) * np.dtype(spec.dtype).itemsize
    if min(shape, default=0) < 0 or size > LARGEST_INPUT_BYTES:
        raise InvalidInput(
            f"input {spec} takes {size:,} bytes, more than {LARGEST_INPUT_BYTES:,}",
            hint="check its shape; --input states a smaller one where a dimension may vary",
        )
    return np.zeros(shape, spec.dtype)
