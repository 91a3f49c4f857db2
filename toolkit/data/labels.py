"""The class of each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from passes.dataset import Array, Dataset
from passes.signature import Signature
from targets.errors import InvalidInput
from toolkit.data.fitting import as_array

__all__ = ["LABELS", "check_labels", "class_numbers", "split_labels", "with_labels"]

LABELS = "labels"
"""Name of the array that holds the class of each sample."""


def split_labels(values: Mapping[Any, Any], signature: Signature) -> tuple[dict[str, Any], Any]:
    """`values` by input name, and what stands under `labels`, None where nothing does or the model takes an input
    of that name."""
    named = {str(key): value for key, value in values.items()}
    return named, None if any(spec.name == LABELS for spec in signature.inputs) else named.pop(LABELS, None)


def check_labels(name: str, labels: Array) -> Array:
    """Labels as (n,) int64.

    Raises:
        InvalidInput: they are not one class number from 0 up a sample.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise InvalidInput(
            f"data {name!r}: labels must be one class number a sample, got {labels.dtype} {list(labels.shape)}",
            hint="store integers from 0 up",
        )
    return labels.astype(np.int64)


def with_labels(data: Dataset, labels: Any) -> Dataset:
    """`data` with the classes that were given beside it.

    Raises:
        InvalidInput: they are no class numbers, or not as many as samples.
    """
    classes = check_labels(data.name, as_array(labels, f"data {data.name!r}, labels"))
    if len(classes) != len(data):
        raise InvalidInput(
            f"data {data.name!r}: {len(data)} samples and {len(classes)} labels", hint="give one label a sample"
        )
    return replace(data, labels=classes)


def class_numbers(folders: Sequence[str]) -> list[int]:
    """The class that each folder's name stands for: the name where all are integers, else its place when sorted."""
    if all(name.isascii() and name.isdigit() for name in folders):
        return [int(name) for name in folders]
    places = {name: place for place, name in enumerate(sorted(folders))}
    return [places[name] for name in folders]
