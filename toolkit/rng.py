"""Random numbers: a generator is made from a seed and handed on; nothing global is touched."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["generator"]


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """A generator for one purpose. Equal seeds and purposes give equal streams; different purposes, unrelated ones."""
    digest = hashlib.sha256("/".join((str(seed), *purpose)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
