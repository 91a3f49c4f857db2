"""Samples from the user's own iterable, one at a time: nothing is collected but the classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from passes.dataset import Dataset, Sample
from passes.signature import Signature
from targets.errors import InvalidInput
from toolkit.data.factory import user_code
from toolkit.data.fitting import fitting
from toolkit.data.labels import check_labels, split_labels

__all__ = ["from_stream"]

_MOST_SAMPLES = 1_000_000
"""A stream whose length is not known is counted first; one that goes on beyond this is taken for endless."""
_END = object()


def from_stream(name: str, walk: Callable[[], Iterable[Any]], size: int | None, signature: Signature) -> Dataset:
    """Samples of an iterable.

    Args:
        walk: Starts a walk over the same samples in the same order, every time it is called.
        size: Their number where it is known; counted on a walk of its own where it is not, or where the samples bring
            their classes.

    Raises:
        InvalidInput: the user's code raised, or does not end; while reading: a sample does not fit.
    """

    def pairs() -> Iterator[tuple[Sample, Any]]:
        return (_sample_and_label(item, signature) for item in _items(name, walk))

    labels = None
    first = next(pairs(), None)
    if size is None or (first is not None and first[1] is not None):
        found = [_label(label) for _, label in islice(pairs(), _MOST_SAMPLES)]
        if len(found) == _MOST_SAMPLES:
            raise InvalidInput(
                f"data {name!r} gives {_MOST_SAMPLES} samples and more", hint="end it; a few hundred calibrate well"
            )
        size = len(found)
        if first is not None and first[1] is not None:
            labels = check_labels(name, np.array(found))
    return fitting(Dataset(name, lambda: (sample for sample, _ in pairs()), size, labels), signature)


def _items(name: str, walk: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    with user_code(f"reading {name}"):
        items = iter(walk())
    while True:
        with user_code(f"reading {name}"):
            item = next(items, _END)
        if item is _END:
            return
        yield item


def _sample_and_label(item: Any, signature: Signature) -> tuple[Sample, Any]:
    """A sample by input name, and its class where it brings one."""
    label = None
    if isinstance(item, (tuple, list)) and len(item) == 2 and len(signature.inputs) == 1 and _is_class(item[1]):
        item, label = item
    if isinstance(item, Mapping):
        values, inside = split_labels(item, signature)
        return values, label if inside is None else inside
    return {signature.inputs[0].name: item}, label


def _is_class(value: Any) -> bool:
    """An integer, or an array of one, numpy's or torch's."""
    if isinstance(value, int):
        return True
    return hasattr(value, "dtype") and "int" in str(value.dtype) and prod(value.shape) == 1


def _label(label: Any) -> int:
    """A class number; -1, which is none, for anything else."""
    return int(label) if label is not None and _is_class(label) else -1
