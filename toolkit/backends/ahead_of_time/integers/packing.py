"""Weights in the order in which kernels read them: so many output channels side by side, then the next."""

from __future__ import annotations

import numpy as np

from passes.dataset import Array

__all__ = ["depth_of", "in_blocks", "packed", "padded_channels"]

CHANNELS = 4
"""Output channels that are computed at once where each sums over input channels."""

BLOCK = 16
"""Channels that are computed at once where each is by itself."""

_LONG, _SHORT = 16, 8


def depth_of(products: int) -> int:
    """Products of one row, with zeros up to a multiple of 8."""
    return -(-products // _SHORT) * _SHORT


def padded_channels(array: Array, groups: int) -> Array:
    """One number for each output channel, each group with zeros up to a multiple of 4."""
    by_group = array.reshape(groups, -1)
    return np.pad(by_group, ((0, 0), (0, -by_group.shape[1] % CHANNELS))).reshape(-1)


def packed(weights: Array, groups: int) -> Array:
    """(groups * channels, products) int8 as a flat array: by group, four channels, sixteen products, channel.

    Where eight products are left at the end, these come as eight of each channel.
    """
    channels, products = weights.shape
    rows = np.pad(weights.reshape(groups, channels // groups, products),
                  ((0, 0), (0, -(channels // groups) % CHANNELS), (0, depth_of(products) - products)))  # fmt: skip
    fours = rows.reshape(groups, -1, CHANNELS, depth_of(products))
    whole = depth_of(products) // _LONG * _LONG
    long = fours[..., :whole].reshape(*fours.shape[:3], -1, _LONG).swapaxes(2, 3)
    parts = [long.reshape(*fours.shape[:2], -1), fours[..., whole:].reshape(*fours.shape[:2], -1)]
    flat: Array = np.ascontiguousarray(np.concatenate(parts, axis=-1)).reshape(-1)
    return flat


def in_blocks(array: Array) -> Array:
    """(..., channels) as a flat array: blocks of sixteen channels, each with what lies before them.

    The last block begins sixteen channels before the end; fewer channels are padded with zeros.
    """
    channels = array.shape[-1]
    padded = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, max(0, BLOCK - channels))])
    starts = [min(start, padded.shape[-1] - BLOCK) for start in range(0, channels, BLOCK)]
    return np.concatenate([padded[..., start : start + BLOCK].reshape(-1) for start in starts])
