"""Random numbers: a generator is made from a seed and handed on; nothing global is touched."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["derive_seed", "generator", "numpy_generator", "torch_generator", "uniform"]


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """A generator for one purpose. Equal seeds and purposes give equal streams; different purposes, unrelated ones."""
    digest = hashlib.sha256("/".join((str(seed), *purpose)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def derive_seed(root: int, *path: int | str | bytes) -> int:
    """64 bits decided by `root` and `path` alone: equal in every process, on every machine and in every version.

    Each item is hashed with its kind and its length, so ("a:b",) and ("a", "b") differ, as do 1 and "1".

    Raises:
        TypeError: an item is something else; a float that was rounded elsewhere would silently be another key.
    """
    state = hashlib.blake2b(digest_size=8)
    for item in (root, *path):
        kind, payload = _item(item)
        state.update(kind + len(payload).to_bytes(4, "big") + payload)
    return int.from_bytes(state.digest(), "big")


def _item(item: int | str | bytes) -> tuple[bytes, bytes]:
    if isinstance(item, bool) or not isinstance(item, int | str | bytes):
        raise TypeError(f"a seed is derived from int, str and bytes, not from {type(item).__name__} {item!r}")
    if isinstance(item, int):
        return b"i", str(item).encode("ascii")
    return (b"s", item.encode("utf-8")) if isinstance(item, str) else (b"b", item)


def uniform(root: int, *path: int | str | bytes) -> float:
    """One number in [0, 1), of 53 bits."""
    return float((derive_seed(root, *path) >> 11) * 2.0**-53)


def numpy_generator(root: int, *path: int | str | bytes) -> np.random.Generator:
    """A Philox generator keyed by `derive_seed`."""
    return np.random.Generator(np.random.Philox(key=derive_seed(root, *path)))


def torch_generator(root: int, *path: int | str | bytes, device: str = "cpu") -> torch.Generator:
    """torch's generator on `device`, seeded by `derive_seed`. torch is imported when this is called."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(root, *path))
