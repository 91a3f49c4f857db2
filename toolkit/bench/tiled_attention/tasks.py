"""Tasks that ask for what was said before, made by chance alone: ids, and at each asked position the id that is right.

recall      8 pairs of a key and a value, then keys whose values are asked for (Arora et al. 2023, arXiv:2312.04927)
copy        32 symbols, then the same again (Graves et al. 2014, arXiv:1410.5401)
induction   a text by chance in which one symbol is always followed by the same other one (Olsson et al. 2022,
            arXiv:2209.11895)
passkey     4 colours of a digit each among a thousand other tokens, then each colour's digit (after Mohtashami and
            Jaggi 2023, arXiv:2305.16300)
listops     the value of nested lists of MIN, MAX, MED and SM, the sum modulo 10 (Nangia and Bowman 2018,
            arXiv:1804.06028)
pathfinder  an image of two dashed paths, read row by row: whether the two marked ends are of one path (after Linsley et
            al. 2018, arXiv:1805.08315)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from passes.dataset import UNASKED, Array, Dataset
from toolkit.rng import numpy_generator

__all__ = ["TASKS", "Task"]

Draw = np.random.Generator
Asked = tuple[Array, Array]
"""(n, N) int64: ids, and what is right at each position, `UNASKED` where nothing is asked."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked, and how long a network learns it.

    Args:
        length, tile: N tokens in tiles of B.
        make: From a count and a generator to that many samples.
        steps, batch, rate: Of training, on samples that are never seen twice.
    """

    vocabulary: int
    length: int
    tile: int
    make: Callable[[int, Draw], Asked]
    steps: int = 2000
    batch: int = 32
    rate: float = 3e-3

    @property
    def tiles(self) -> int:
        """T"""
        return self.length // self.tile

    def data(self, name: str, count: int, seed: int, part: str) -> Dataset:
        """`count` samples; those of another seed or part are others."""
        ids, labels = self.make(count, numpy_generator(seed, name, part))
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


def _passkey(count: int, draw: Draw) -> Asked:
    """Ids: digits, then digits in each colour, then the question for each colour, then hay."""
    first_question = _DIGITS * (1 + _COLOURS)
    ids = draw.integers(first_question + _COLOURS, first_question + _COLOURS + _HAY, (count, _HAYSTACK))
    labels, rows = np.full_like(ids, UNASKED), np.arange(count)[:, None]
    places = draw.permuted(np.tile(np.arange(_HAYSTACK - _COLOURS), (count, 1)), axis=1)[:, :_COLOURS]
    digits = draw.integers(0, _DIGITS, (count, _COLOURS))
    ids[rows, places] = _DIGITS * (1 + np.arange(_COLOURS)) + digits
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

_SIDE, _PIXELS = 16, 15
_EMPTY, _INK, _END, _NO, _YES = range(5)
_STEPS = np.array(((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)), np.int8)
"""Clockwise."""
_BENDS, _WALKS = np.array((-1, 0, 0, 1), np.int8), 20_000


def _pathfinder(count: int, draw: Draw) -> Asked:
    """The last pixel is empty, and asks."""
    first, second = _apart(count, draw)
    is_one = draw.integers(0, 2, count)
    images, rows = np.full((count, _SIDE, _SIDE), _EMPTY), np.arange(count)
    for path in (first, second):
        images[rows[:, None], path[:, ::2, 0], path[:, ::2, 1]] = _INK  # dashes: every other pixel
    for end in (first[:, 0], np.where(is_one[:, None] == 1, first[:, -1], second[:, -1])):
        images[rows, end[:, 0], end[:, 1]] = _END
    ids = images.reshape(count, -1)
    labels = np.full_like(ids, UNASKED)
    labels[:, -1] = _NO + is_one
    return ids, labels


def _apart(count: int, draw: Draw) -> tuple[Array, Array]:
    """Two paths (n, P, 2) each, at least two pixels apart everywhere."""
    pairs = np.empty((0, 2, _PIXELS, 2), np.int8)
    while len(pairs) < count:
        found = _paths(draw)
        some = found[: len(found) // 2 * 2].reshape(-1, 2, _PIXELS, 2)
        pairs = np.concatenate([pairs, some[_distances(some[:, 0], some[:, 1]).min((1, 2)) >= 2]])
    return pairs[:count, 0], pairs[:count, 1]


def _paths(draw: Draw) -> Array:
    """Of many walks that bend by an eighth of a turn at most, those that stay inside and apart from themselves."""
    start, turn = draw.integers(0, _SIDE, (_WALKS, 1, 2), np.int8), draw.integers(0, 8, (_WALKS, 1))
    turns = turn + _BENDS[draw.integers(0, 4, (_WALKS, _PIXELS - 1))].cumsum(1)
    found = np.concatenate([start, start + _STEPS[turns % 8].cumsum(1, np.int8)], 1)
    found = found[((found >= 0) & (found < _SIDE)).all((1, 2)) & ~(found == _SIDE - 1).all(2).any(1)]
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
                    steps=1500, batch=16),
    "listops": Task(vocabulary=_ASK + 1, length=_LISTED, tile=8, make=_listops, steps=2000, batch=64, rate=1e-3),
    "pathfinder": Task(vocabulary=5, length=_SIDE * _SIDE, tile=16, make=_pathfinder, steps=2000, batch=64, rate=1e-3),
}  # fmt: skip
"""By name. Lengths are whole numbers of tiles."""
