"""Tasks that ask for what was said before, made by chance alone: ids, and at each asked position the id that is right.

recall      8 pairs of a key and a value, then keys whose values are asked for (Arora et al. 2023, arXiv:2312.04927)
copy        32 symbols, then the same again (Graves et al. 2014, arXiv:1410.5401)
induction   a text by chance in which one symbol is always followed by the same other one (Olsson et al. 2022,
            arXiv:2209.11895)
passkey     4 colours of a digit each among a thousand other tokens, then each colour's digit (after Mohtashami and
            Jaggi 2023, arXiv:2305.16300); the texts that are learned from say it up to 32 times, those asked about once
listops     the value of nested lists of MIN, MAX, MED and SM, the sum modulo 10 (Nangia and Bowman 2018,
            arXiv:1804.06028)
pathfinder  an image of two dashed paths, read row by row and then again: of each dash whether it lies on the path with
            the marked end (after Linsley et al. 2018, arXiv:1805.08315, who ask one question an image)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from passes.dataset import UNASKED, Array, Dataset
from toolkit.rng import numpy_generator

__all__ = ["TASKS", "Task"]

Draw = np.random.Generator
Asked = tuple[Array, Array]
"""(n, N) int64: ids, and what is right at each position, `UNASKED` where nothing is asked."""
Make = Callable[[int, Draw], Asked]
Part = Literal["training", "asked"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked, and how long a network learns it.

    Args:
        length, tile: N tokens in tiles of B.
        make: From a count and a generator to that many samples.
        teach: Likewise those that are learned from, where they are easier.
        steps, batch, rate: Of training, on samples that are never seen twice.
    """

    vocabulary: int
    length: int
    tile: int
    make: Make
    teach: Make | None = None
    steps: int = 2000
    batch: int = 32
    rate: float = 3e-3

    @property
    def tiles(self) -> int:
        """T"""
        return self.length // self.tile

    def data(self, name: str, count: int, seed: int, part: Part) -> Dataset:
        """`count` samples; those of another seed or part are others."""
        make = self.teach if self.teach and part == "training" else self.make
        ids, labels = make(count, numpy_generator(seed, name, part))
        return Dataset.of_arrays(f"{name}, {part}, seed {seed}", {"characters": ids}, labels)


# ---- recall

_RECALLED, _PAIRS, _KEYS = 40, 8, 20


def _recall(count: int, draw: Draw) -> Asked:
    keys = draw.permuted(np.tile(np.arange(_KEYS), (count, 1)), axis=1)[:, :_PAIRS]
    values = draw.integers(_KEYS, 2 * _KEYS, (count, _PAIRS))
    asked = draw.integers(0, _PAIRS, (count, _RECALLED - 2 * _PAIRS))
    pairs = np.stack([keys, values], 2).reshape(count, -1)
    ids = np.concatenate([pairs, np.take_along_axis(keys, asked, 1)], 1)
    return ids, np.concatenate([np.full_like(pairs, UNASKED), np.take_along_axis(values, asked, 1)], 1)


# ---- copy

_SYMBOLS, _COPIED = 16, 32


def _copy(count: int, draw: Draw) -> Asked:
    said = draw.integers(1, _SYMBOLS + 1, (count, _COPIED))
    again = np.zeros((count, 1), np.int64)  # the word for it
    return np.concatenate([said, again, said[:, :-1]], 1), np.concatenate([np.full_like(said, UNASKED), said], 1)


# ---- induction

_INDUCED, _OCCASIONS = 64, 8


def _induction(count: int, draw: Draw) -> Asked:
    ids = draw.integers(1, _SYMBOLS + 1, (count, _INDUCED))
    labels = np.full_like(ids, UNASKED)
    follower = draw.integers(1, _SYMBOLS + 1, count)
    slots = draw.permuted(np.tile(np.arange(0, _INDUCED, 2), (count, 1)), axis=1)[:, :_OCCASIONS]
    slots.sort(axis=1)
    rows = np.arange(count)[:, None]
    ids[rows, slots], ids[rows, slots + 1] = 0, follower[:, None]
    labels[rows, slots[:, 1:]] = follower[:, None]
    return ids, labels


# ---- passkey

_HAYSTACK, _COLOURS, _DIGITS, _HAY = 1024, 4, 10, 32
_DOUBLED = 5


def _passkey(count: int, draw: Draw, doubled: int = 0) -> Asked:
    """Ids: digits, then digits in each colour, then the question for each colour, then hay.

    Args:
        doubled: How often at most the number of times that a text says its digits is doubled.
    """
    first_question, most = _DIGITS * (1 + _COLOURS), 2**doubled
    ids = draw.integers(first_question + _COLOURS, first_question + _COLOURS + _HAY, (count, _HAYSTACK))
    labels = np.full_like(ids, UNASKED)
    places = draw.permuted(np.tile(np.arange(_HAYSTACK - _COLOURS), (count, 1)), axis=1)[:, : most * _COLOURS]
    digits, times = draw.integers(0, _DIGITS, (count, _COLOURS)), 2 ** draw.integers(0, doubled + 1, count)
    said = _DIGITS * (1 + np.arange(_COLOURS)) + digits
    for time in range(most):
        some = np.flatnonzero(times > time)
        ids[some[:, None], places[some, time * _COLOURS : (time + 1) * _COLOURS]] = said[some]
    order = draw.permuted(np.tile(np.arange(_COLOURS), (count, 1)), axis=1)
    ids[:, -_COLOURS:] = first_question + order
    labels[:, -_COLOURS:] = np.take_along_axis(digits, order, 1)
    return ids, labels


# ---- listops

_LISTED, _DEEPEST, _MOST = 128, 4, 5
_OPEN: Mapping[str, int] = {"MIN": 10, "MAX": 11, "MED": 12, "SM": 13}
_CLOSE, _REST, _ASK = 14, 15, 16
_VALUE: Mapping[str, Callable[[list[int]], int]] = {
    "MIN": min, "MAX": max, "MED": lambda x: int(np.median(x)), "SM": lambda x: sum(x) % 10,
}  # fmt: skip


def _listops(count: int, draw: Draw) -> Asked:
    """The list comes last, before one word that asks."""
    ids = np.full((count, _LISTED), _REST)
    labels = np.full_like(ids, UNASKED)
    for row in range(count):
        said, value = _list(draw, _DEEPEST)
        while len(said) > _LISTED - 1:
            said, value = _list(draw, _DEEPEST)
        ids[row, -1 - len(said) : -1], ids[row, -1], labels[row, -1] = said, _ASK, value
    return ids, labels


def _list(draw: Draw, deepest: int) -> tuple[list[int], int]:
    """A list as it is written, and its value; each member is a list itself by a chance of a quarter."""
    name = sorted(_OPEN)[draw.integers(len(_OPEN))]
    said, values = [_OPEN[name]], []
    for _ in range(draw.integers(2, _MOST + 1)):
        if deepest > 1 and draw.random() < 0.25:
            inner, value = _list(draw, deepest - 1)
        else:
            value = int(draw.integers(10))
            inner = [value]
        said += inner
        values.append(value)
    return [*said, _CLOSE], _VALUE[name](values)


# ---- pathfinder

_SIDE, _PIXELS = 8, 7
_EMPTY, _INK, _END, _OTHER, _MARKED = range(5)
_STEPS = np.array(((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)), np.int8)
"""Clockwise."""
_BENDS, _WALKS = np.array((-1, 0, 0, 1), np.int8), 20_000


def _pathfinder(count: int, draw: Draw) -> Asked:
    """Of all dashes but the marked one."""
    marked, other = _apart(count, draw)
    images, rows = np.full((count, _SIDE, _SIDE), _EMPTY), np.arange(count)[:, None]
    labels = np.full_like(images, UNASKED)
    for path, label in ((marked, _MARKED), (other, _OTHER)):
        dashes = (rows, path[:, ::2, 0], path[:, ::2, 1])  # every other pixel
        images[dashes], labels[dashes] = _INK, label
    end = (rows[:, 0], marked[:, 0, 0], marked[:, 0, 1])
    images[end], labels[end] = _END, UNASKED
    ids, labels = images.reshape(count, -1), labels.reshape(count, -1)
    return np.concatenate([ids, ids], 1), np.concatenate([np.full_like(labels, UNASKED), labels], 1)


def _apart(count: int, draw: Draw) -> tuple[Array, Array]:
    """Two paths (n, P, 2) each, further apart than a path's dashes are."""
    pairs = np.empty((0, 2, _PIXELS, 2), np.int8)
    while len(pairs) < count:
        found = _paths(draw)
        some = found[: len(found) // 2 * 2].reshape(-1, 2, _PIXELS, 2)
        pairs = np.concatenate([pairs, some[_distances(some[:, 0], some[:, 1]).min((1, 2)) > 2]])
    return pairs[:count, 0], pairs[:count, 1]


def _paths(draw: Draw) -> Array:
    """Of many walks that bend by an eighth of a turn at most, those that stay inside and apart from themselves."""
    start, turn = draw.integers(0, _SIDE, (_WALKS, 1, 2), np.int8), draw.integers(0, 8, (_WALKS, 1))
    turns = turn + _BENDS[draw.integers(0, 4, (_WALKS, _PIXELS - 1))].cumsum(1)
    found = np.concatenate([start, start + _STEPS[turns % 8].cumsum(1, np.int8)], 1)
    found = found[((found >= 0) & (found < _SIDE)).all((1, 2))]
    place = np.arange(_PIXELS)
    is_neighbour = abs(place[:, None] - place) < 2
    kept: Array = found[((_distances(found, found) >= 2) | is_neighbour).all((1, 2))]
    return kept


def _distances(a: Array, b: Array) -> Array:
    """(n, P, P) in steps that may be diagonal."""
    down, right = (abs(a[:, :, None, axis] - b[:, None, :, axis]) for axis in (0, 1))
    found: Array = np.maximum(down, right)
    return found


TASKS: Mapping[str, Task] = {
    "recall": Task(vocabulary=2 * _KEYS, length=_RECALLED, tile=4, make=_recall),
    "copy": Task(vocabulary=_SYMBOLS + 1, length=2 * _COPIED, tile=4, make=_copy, steps=500),
    "induction": Task(vocabulary=_SYMBOLS + 1, length=_INDUCED, tile=4, make=_induction, steps=500),
    "passkey": Task(vocabulary=_DIGITS * (1 + _COLOURS) + _COLOURS + _HAY, length=_HAYSTACK, tile=32, make=_passkey,
                    teach=partial(_passkey, doubled=_DOUBLED), steps=1000, batch=8, rate=2e-3),
    "listops": Task(vocabulary=_ASK + 1, length=_LISTED, tile=8, make=_listops, steps=2000, batch=64, rate=1e-3),
    "pathfinder": Task(vocabulary=5, length=2 * _SIDE**2, tile=_SIDE, make=_pathfinder, steps=2500, batch=64),
}  # fmt: skip
"""By name. Lengths are whole numbers of tiles."""
