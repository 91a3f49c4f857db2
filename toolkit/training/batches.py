"""Samples joined into batches, in an order that a seed decides and that can be entered in the middle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from math import ceil
from typing import TypeAlias

import numpy as np
import torch

from passes.context import Batch
from passes.dataset import UNASKED, Dataset, Sample
from targets.errors import InvalidInput
from toolkit.rng import generator
from toolkit.training.sampling import Sampling

__all__ = ["HELD_BYTES", "Batches", "held_out", "weight_of"]

HELD_BYTES = 512 * 2**20
"""Samples are read once and held up to here; what is larger is read anew each epoch, this much shuffled at a time."""

_Numbered: TypeAlias = tuple[int, Sample]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batches of a data set, as even as they can be: a last batch of one would stop a batch norm.

    Args:
        data: Samples with a batch dimension each; they are joined along it.
        size: Samples in a batch at most.
        seed: Of the orders.
        inputs: Names of the inputs in the order in which the model takes them; those of the samples where empty.
        held_bytes: See HELD_BYTES.
        sampling: Draws what an epoch learns from; all samples once, at random, where None.

    Raises:
        InvalidInput: there are no samples, one lacks an input, or their shapes differ and they cannot be joined; or
            they are drawn by number and more than what is held.
    """

    data: Dataset
    size: int
    seed: int
    inputs: tuple[str, ...] = ()
    held_bytes: int = HELD_BYTES
    sampling: Sampling | None = None

    def __len__(self) -> int:
        return ceil(len(self.data) / self.size)

    def shuffled(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on; every epoch has an order of its own."""
        rng = generator(self.seed, "training", "order", str(epoch))
        if self._held is not None:
            held, count = self._held, len(self._held)
            order = rng.permutation(count) if self.sampling is None else self.sampling.draw(epoch, count, rng)
            numbered: Iterator[_Numbered] = ((int(i), held[i]) for i in order)
        elif self.sampling is None:
            numbered = _shuffled_as_read(enumerate(self.data), rng, self.held_bytes)
        else:
            raise InvalidInput(
                f"{self.data.name} is larger than the {self.held_bytes >> 20} MiB that can be drawn from by number",
                hint="leave the curriculum out, or train on fewer samples",
            )
        return self._joined(numbered, start)

    def in_order(self) -> Iterator[Batch]:
        """Every sample once, as the data set gives them."""
        return self._joined(enumerate(self.data if self._held is None else self._held), 0)

    @cached_property
    def _held(self) -> list[Sample] | None:
        held: list[Sample] = []
        total = 0
        for sample in self.data:
            held.append(sample)
            total += _bytes(sample)
            if total > self.held_bytes:
                return None
        return held

    def _joined(self, numbered: Iterator[_Numbered], start: int) -> Iterator[Batch]:
        count, parts = len(self.data), len(self)
        bounds = [count * part // parts for part in range(parts + 1)] if parts else [0]
        rest = islice(numbered, bounds[start], None)
        for low, high in zip(bounds[start:], bounds[start + 1 :], strict=False):
            yield self._batch(list(islice(rest, high - low)))

    def _batch(self, numbered: list[_Numbered]) -> Batch:
        if not numbered:
            raise InvalidInput(
                f"{self.data.name} gave fewer samples than the {len(self.data)} that it has",
                hint="give data that can be read again and again",
            )
        samples = [sample for _, sample in numbered]
        names = self.inputs or tuple(samples[0])
        inputs = {name: self._tensor(samples, name) for name in names}
        if self.data.labels is None:
            return inputs, None
        return inputs, torch.from_numpy(np.asarray(self.data.labels)[[i for i, _ in numbered]].astype(np.int64))

    def _tensor(self, samples: list[Sample], name: str) -> torch.Tensor:
        try:
            return torch.from_numpy(np.concatenate([np.atleast_1d(sample[name]) for sample in samples]))
        except KeyError as error:
            raise InvalidInput(
                f"{self.data.name}: a sample has no input {name!r}", hint=f"it has {', '.join(samples[0])}"
            ) from error
        except ValueError as error:
            shapes = sorted({sample[name].shape for sample in samples})
            raise InvalidInput(
                f"{self.data.name}: samples of {name!r} make no batch, their shapes differ: {shapes[0]}, {shapes[-1]}",
                hint="bring them to one size, or train with batches of one",
            ) from error


def _bytes(sample: Sample) -> int:
    return sum(array.nbytes for array in sample.values())


def _shuffled_as_read(samples: Iterable[_Numbered], rng: np.random.Generator, held_bytes: int) -> Iterator[_Numbered]:
    """Each sample once; the next is drawn from as many as fit into `held_bytes`."""
    waiting: list[_Numbered] = []
    held = 0
    for numbered in samples:
        waiting.append(numbered)
        held += _bytes(numbered[1])
        while held > held_bytes:
            drawn = _draw(waiting, rng)
            held -= _bytes(drawn[1])
            yield drawn
    while waiting:
        yield _draw(waiting, rng)


def _draw(waiting: list[_Numbered], rng: np.random.Generator) -> _Numbered:
    position = int(rng.integers(len(waiting)))
    waiting[position], waiting[-1] = waiting[-1], waiting[position]
    return waiting.pop()


def weight_of(batch: Batch) -> int:
    """What a mean loss over `batch` weighs beside that of others: the positions asked where samples have labels of
    positions, else the samples."""
    inputs, labels = batch
    if labels is not None and labels.ndim > 1:
        return int((labels != UNASKED).sum())
    return len(next(iter(inputs.values())))


def held_out(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """(what is trained on, what judges it): a random `share` of the samples is kept apart, if that is one at least."""
    count = int(len(data) * share)
    if count == 0:
        return data, None
    order = generator(seed, "training", "held out").permutation(len(data))
    return _part(data, order[count:], "trained on"), _part(data, order[:count], "held out")


def _part(data: Dataset, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], what: str) -> Dataset:
    positions = sorted(int(i) for i in chosen)
    wanted = frozenset(positions)
    labels = None if data.labels is None else np.asarray(data.labels)[positions]
    return replace(
        data,
        name=f"{data.name}, {what}",
        read=lambda: (sample for i, sample in enumerate(data) if i in wanted),
        size=len(positions),
        labels=labels,
        identity=lambda count: f"{data.digest} {positions[:count]}",
    )
