"""Input shapes that the user states, where a model does not say them or says that they vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from passes.dataset import Array, Sample
from passes.signature import TensorSpec
from targets.errors import InvalidInput

__all__ = ["LARGEST_INPUT_BYTES", "known_sizes", "parse_input", "spelled", "stated", "varying", "zeros"]

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


def spelled(sample: Sample) -> str:
    """Shapes and types of a sample as `parse_input` reads them, those of several inputs separated by semicolons."""
    texts = []
    for name, array in sample.items():
        label = f"{name}=" if len(sample) > 1 else ""
        dtype = f":{array.dtype.name}" if array.dtype.name != "float32" else ""
        texts.append(f"{label}{'x'.join(map(str, array.shape)) or 'scalar'}{dtype}")
    return "; ".join(texts)


def _split(shape: str) -> list[str]:
    if shape == "scalar":
        return []
    return [part.strip() for part in shape.split(",")] if "," in shape else shape.split("x")


def _symbol(text: str) -> str:
    if not text.isidentifier():
        raise ValueError(f"{text!r} is neither a size nor a name")
    return text


def stated(spec: TensorSpec, stated: Sequence[TensorSpec]) -> TensorSpec:
    """`spec` in the shape that one of `stated` gives it: that of its name, or of none that fits."""
    for other in stated:
        if len(other.shape) != len(spec.shape):
            continue
        if other.name == spec.name or (not other.name and _agree(spec.shape, other.shape)):
            return TensorSpec(spec.name, spec.dtype, other.shape)
    return spec


def _agree(shape: Sequence[int | str], other: Sequence[int | str]) -> bool:
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(shape, other, strict=True))


def known_sizes(
    inputs: Sequence[TensorSpec], specs: Sequence[TensorSpec], sample: Sample | Array | None = None
) -> list[TensorSpec]:
    """`inputs` with every size that is known: stated in `specs`, there for another input that shares its name, or,
    beside the batch, that of the sample."""
    given = [stated(spec, specs) for spec in inputs]
    sizes: dict[str, int] = {}
    for spec in inputs:
        sizes |= _named(spec.shape[1:], _shape_in(sample, spec, alone=len(inputs) == 1)[1:])
    for spec, said in zip(inputs, given, strict=True):
        sizes |= _named(spec.shape, said.shape)
    return [
        TensorSpec(spec.name, spec.dtype, tuple(sizes.get(d, d) if isinstance(d, str) else d for d in spec.shape))
        for spec in inputs
    ]


def _named(dims: Sequence[int | str], sizes: Sequence[int | str]) -> dict[str, int]:
    """Sizes of the dimensions that have a name."""
    return {d: n for d, n in zip(dims, sizes, strict=True) if isinstance(d, str) and isinstance(n, int)}


def _shape_in(sample: Sample | Array | None, spec: TensorSpec, *, alone: bool) -> Sequence[int | str]:
    """The shape that the sample has for an input; the input's own where it has none of that rank."""
    array = sample.get(spec.name) if isinstance(sample, Mapping) else sample if alone else None
    return array.shape if array is not None and array.ndim == len(spec.shape) else spec.shape


def varying(specs: Sequence[TensorSpec], names: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    """Positions of the dimensions without a size, by input; `names` are those of inputs that a spec does not name."""
    found = {
        spec.name or names[i]: tuple(j for j, d in enumerate(spec.shape) if isinstance(d, str))
        for i, spec in enumerate(specs)
    }
    return {name: positions for name, positions in found.items() if positions}


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
