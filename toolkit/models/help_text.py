"""Text that every Python has, as ids of characters: its help topics (PSF licence), half a million characters."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import numpy as np

from passes.dataset import Array, Dataset
from targets.errors import MissingDependency

__all__ = ["ALPHABET_SIZE", "ids", "windows"]

ALPHABET_SIZE = 128
"""Ids are ASCII codes; every other character is a question mark."""

_KEPT_APART = 10
"""Each tenth window is for validation."""


@cache
def ids() -> Array:
    """int64, the topics by name, one after another.

    Raises:
        MissingDependency: this Python comes without its help topics.
    """
    try:
        topics = import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise MissingDependency("this Python has no help topics", hint="install its standard library whole") from error
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64)


def windows(part: str, length: int, *, vocabulary: int = ALPHABET_SIZE, most: int | None = None) -> Dataset:
    """Windows of the text and the ids behind each of their ids, (n, length) both.

    Args:
        part: "training", or "validation", which is every tenth window. A text too short for ten is repeated.
        vocabulary: Ids from here on are taken modulo it.
        most: Windows at most, spread over the text.
    """
    text = ids() % vocabulary
    if len(text) <= _KEPT_APART * length:
        text = np.resize(text, _KEPT_APART * length + 1)
    starts = np.arange(0, len(text) - length, length)
    is_kept = np.arange(len(starts)) % _KEPT_APART == _KEPT_APART - 1
    starts = starts[is_kept if part == "validation" else ~is_kept]
    if most is not None and len(starts) > most:
        starts = starts[np.linspace(0, len(starts) - 1, most).astype(int)]
    held = np.stack([text[at : at + length + 1] for at in starts])
    return Dataset.of_arrays(
        f"Python's help topics, {part}, {length} characters", {"characters": held[:, :-1]}, held[:, 1:]
    )
