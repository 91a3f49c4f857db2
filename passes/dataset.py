"""Samples with a digest: what calibrates a quantizer, proves a pass and measures a metric."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

__all__ = ["UNASKED", "Array", "Dataset", "Sample"]

Array = np.ndarray[Any, Any]
Sample = Mapping[str, Array]
"""One sample: an array for each input of the model, with its batch dimension."""

UNASKED = -100
"""In place of the class of a position that is neither taught nor judged; what torch's losses leave out."""


@dataclass(frozen=True)
class Dataset:
    """Samples that can be read again and again, one at a time; labels where there are any.

    Args:
        name: How the user named it, for the report.
        read: Gives a fresh iterator over the samples; called for every pass over the data, so that nothing is held.
        size: Number of samples.
        labels: (size,) class of each sample; or (size, ...) of each position, before the classes in the first output,
            `UNASKED` where a position has none; or None.
        identity: From n to what stands for the first n samples in a digest, where making them is dear: a hash of the
            files and of how they are read. None: the samples themselves.
        preprocessing: How files were made into samples, for the report; empty where they are taken as they are.
    """

    name: str
    read: Callable[[], Iterable[Sample]]
    size: int
    labels: Array | None = None
    identity: Callable[[int], str] | None = None
    preprocessing: str = ""

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.read())

    def __len__(self) -> int:
        return self.size

    def take(self, count: int) -> Dataset:
        """The first `count` samples; the same data set where it has no more."""
        if count >= self.size:
            return self
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, read=lambda: islice(self.read(), count), size=count, labels=labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and values of every sample, or over their identity, and the labels."""
        state = hashlib.sha256()
        if self.identity is not None:
            state.update(f"identity|{self.identity(self.size)}|".encode())
        else:
            self._hash_samples(state)
        if self.labels is not None:
            state.update(b"labels|")
            state.update(np.ascontiguousarray(self.labels, dtype=np.int64).tobytes())
        return state.hexdigest()

    def _hash_samples(self, state: hashlib._Hash) -> None:
        for sample in self:
            state.update(b"sample|")
            for name in sorted(sample):
                array = np.asarray(sample[name])
                state.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
                state.update(array.tobytes())

    @classmethod
    def of_arrays(cls, name: str, arrays: Mapping[str, Array], labels: Array | None = None) -> Dataset:
        """Samples along the first axis of each array; every sample keeps a batch dimension of 1."""
        size = len(next(iter(arrays.values())))

        def read() -> Iterator[Sample]:
            for i in range(size):
                yield {key: array[i : i + 1] for key, array in arrays.items()}

        return cls(name, read, size, labels)
