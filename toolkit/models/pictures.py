"""Labelled pictures that the core install has: scikit-learn's handwritten digits, enlarged to a stated size."""

from __future__ import annotations

import numpy as np

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models.digits import split

__all__ = ["SIDE", "blank", "digit_pictures"]

SIDE = 8
"""Pixels along the side of a digit as it comes."""

_CALIBRATION = 128


def digit_pictures(size: int, channels: int, part: str) -> Dataset:
    """Digits as (1, channels, size, size) float32 in [0, 1]: each pixel repeated, each channel the same.

    Args:
        size: A multiple of 8.
        part: "calibration" (128 of the training split, labels left out), "training" (1,437) or "validation" (360).

    Raises:
        InvalidInput: `size` is no multiple of 8.
    """
    if size % SIDE or size < SIDE:
        raise InvalidInput(f"digits of {SIDE} pixels cannot be enlarged to {size}", hint=f"choose a multiple of {SIDE}")
    train, test = split()
    images, labels = test if part == "validation" else train
    if part == "calibration":
        images = images[:_CALIBRATION]
    times = size // SIDE
    enlarged = images.repeat(times, axis=2).repeat(times, axis=3).repeat(channels, axis=1)
    known = None if part == "calibration" else labels
    return Dataset.of_arrays(f"digits of {size} pixels, {part}", {"image": enlarged}, known)


def blank(size: int, channels: int) -> dict[str, Array]:
    """One empty picture."""
    return {"image": np.zeros((1, channels, size, size), np.float32)}
