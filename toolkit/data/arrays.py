"""Arrays in memory, with samples along the first axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from passes.dataset import Array, Dataset, Sample
from passes.signature import Signature
from targets.errors import InvalidInput
from toolkit.data.fitting import as_array, fitting
from toolkit.data.labels import check_labels, split_labels

__all__ = ["common_length", "from_arrays"]


def from_arrays(name: str, values: Mapping[Any, Any], signature: Signature) -> Dataset:
    """Samples along the first axis of each array; `labels` among them are their classes.

    Raises:
        InvalidInput: there is no array, one is a single number, or they differ in length.
    """
    named, labels = split_labels(values, signature)
    arrays = {key: as_array(value, f"data {name!r}, {key}") for key, value in named.items()}
    classes = None if labels is None else check_labels(name, as_array(labels, f"data {name!r}, labels"))
    size = common_length(name, {key: array.shape for key, array in arrays.items()}, classes, signature)

    def read() -> Iterator[Sample]:
        for i in range(size):
            yield {key: array[i] for key, array in arrays.items()}

    return fitting(Dataset(name, read, size, classes), signature)


def common_length(name: str, shapes: Mapping[str, tuple[int, ...]], labels: Array | None, signature: Signature) -> int:
    """How many samples arrays of these shapes hold.

    Raises:
        InvalidInput: there is no array, one has no axis to hold samples, or they differ in length.
    """
    if not shapes:
        raise InvalidInput(
            f"data {name!r} holds no samples", hint=f"name the arrays {', '.join(i.name for i in signature.inputs)}"
        )
    if scalars := sorted(key for key, shape in shapes.items() if not shape):
        raise InvalidInput(
            f"data {name!r}: {scalars[0]} is a single number, no array of samples", hint="put samples first"
        )
    sizes = {shape[0] for shape in shapes.values()} | ({len(labels)} if labels is not None else set())
    if len(sizes) != 1:
        raise InvalidInput(
            f"data {name!r}: arrays of different length: {sorted(sizes)}", hint="give every array one row a sample"
        )
    return sizes.pop()
