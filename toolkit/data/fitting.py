"""Every sample is made to fit the model's inputs, and checked, while it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput

__all__ = ["as_array", "fitting"]


def fitting(data: Dataset, signature: Signature, where: Callable[[int], str] | None = None) -> Dataset:
    """`data` whose samples have the model's names, a batch axis, this machine's byte order and finite values.

    An array with one axis less than the input gets a batch axis of 1. A single array for a single input may have any
    name.

    Args:
        where: Names a sample by its position, for messages; "sample 7" where None.

    Raises:
        InvalidInput: while reading: a sample does not fit, or there are not as many as `data` said.
    """

    def place(index: int) -> str:
        return f"data {data.name!r}: {where(index) if where else f'sample {index}'}"

    def read() -> Iterator[Sample]:
        count = 0
        for count, sample in enumerate(data, start=1):
            yield _fit(sample, signature, place(count - 1))
        if count != len(data):
            raise InvalidInput(
                f"data {data.name!r} said {len(data)} samples and gave {count}",
                hint="leave the data alone while it is read; give the same samples on every walk",
            )

    return replace(data, read=read)


def _fit(sample: Mapping[str, Any], signature: Signature, where: str) -> Sample:
    wanted = [spec.name for spec in signature.inputs]
    if len(sample) == len(wanted) == 1:
        sample = {wanted[0]: next(iter(sample.values()))}
    if sorted(sample) != sorted(wanted):
        raise InvalidInput(
            f"{where}: the model takes {', '.join(wanted)}; got {', '.join(sorted(sample)) or 'nothing'}",
            hint="name the arrays as the model names its inputs; `toolkit inspect` lists them",
        )
    return {spec.name: _fit_array(as_array(sample[spec.name], where), spec, where) for spec in signature.inputs}


def _fit_array(array: Array, spec: TensorSpec, where: str) -> Array:
    if array.ndim == len(spec.shape) - 1:
        if isinstance(spec.shape[0], int) and spec.shape[0] != 1:
            raise InvalidInput(
                f"{where}: {spec.name} has a fixed batch of {spec.shape[0]}, got one of {list(array.shape)}",
                hint="export the model with batch 1 or a varying batch, or give whole batches as samples",
            )
        array = array[None]
    if problem := spec.accepts(array):
        raise InvalidInput(f"{where}: {problem}", hint=f"convert the data; the model's input is {spec}")
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise InvalidInput(f"{where}: {spec.name} holds NaN or infinity", hint="remove the samples that do")
    return array


def as_array(value: Any, where: str) -> Array:
    """A numpy array in this machine's byte order, of numpy's, torch's or Python's numbers.

    Raises:
        InvalidInput: it is none.
    """
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(
            f"{where}: a {type(value).__name__} is no array: {' '.join(str(error).split())[:200]}",
            hint="give numeric arrays",
        ) from error
    if array.dtype.kind in "OUSMm":
        raise InvalidInput(f"{where}: a {type(value).__name__} is no array of numbers", hint="give numeric arrays")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
