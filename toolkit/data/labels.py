"""The class of each sample, or of each position in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from passes.dataset import UNASKED, Array, Dataset
from passes.signature import Signature
from targets.errors import InvalidInput
from toolkit.data.fitting import as_array

__all__ = ["LABELS", "check_labels", "check_positions", "class_numbers", "split_labels", "with_labels"]

LABELS = "labels"
"""Name of the array that holds the classes."""


def split_labels(values: Mapping[Any, Any], signature: Signature) -> tuple[dict[str, Any], Any]:
    """`values` by input name, and what stands under `labels`, None where nothing does or the model takes an input
    of that name."""
    named = {str(key): value for key, value in values.items()}
    return named, None if any(spec.name == LABELS for spec in signature.inputs) else named.pop(LABELS, None)


def check_labels(name: str, labels: Array) -> Array:
    """Labels as (n,) int64, or (n, ...) where each position of a sample has one, or `UNASKED`.

    Raises:
        InvalidInput: they are not class numbers from 0 up, with samples along the first axis; or a sample has none.
    """
    if not labels.ndim or labels.dtype.kind not in "iu" or (labels[_asked(labels)] < 0).any():
        raise InvalidInput(
            f"data {name!r}: labels must be class numbers, a row a sample, got {labels.dtype} {list(labels.shape)}",
            hint=f"store integers from 0 up; {UNASKED} for a position that is not asked",
        )
    empty = np.flatnonzero(~_asked(labels).any(axis=tuple(range(1, labels.ndim))))
    if len(empty):
        raise InvalidInput(
            f"data {name!r}: no position of sample {empty[0]} has a label", hint="leave out samples that ask nothing"
        )
    return labels.astype(np.int64)


def _asked(labels: Array) -> Array:
    """Where there is a class: everywhere, but for positions."""
    return labels != UNASKED if labels.ndim > 1 else np.ones(labels.shape, bool)


def check_positions(data: Dataset, signature: Signature) -> None:
    """Labels of positions belong to those of the first output, in front of its classes.

    Raises:
        InvalidInput: it has other positions, or none.
    """
    if data.labels is None or data.labels.ndim == 1:
        return
    positions = data.labels.shape[1:]
    answer = signature.outputs[0].shape[1:] if signature.outputs else ()
    there = answer[:-1]
    if len(there) != len(positions) or any(
        isinstance(want, int) and want != have for want, have in zip(there, positions, strict=True)
    ):
        raise InvalidInput(
            f"data {data.name!r}: labels of {list(positions)} positions, and an output of {list(answer)} for a sample",
            hint="give a class for each sample, or for each position in front of the classes",
        )


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
