"""A block in which torch gives the same bits each time, and after which its settings are as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from toolkit.rng import generator

__all__ = ["repeatable", "reseed"]


@contextmanager
def repeatable(device: torch.device, threads: int) -> Iterator[None]:
    """Deterministic algorithms on `threads` threads; generators are put back at the end.

    On a GPU operators without a deterministic form still run.
    """
    filling: Any = torch.utils.deterministic
    before_threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = filling.fill_uninitialized_memory
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
            filling.fill_uninitialized_memory = False
            yield
        finally:
            filling.fill_uninitialized_memory = fills
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            torch.set_num_threads(before_threads)


def reseed(device: torch.device, seed: int, *purpose: str) -> None:
    """Seed torch's generators for one step of training: dropout is then the same after a resume."""
    number = int(generator(seed, *purpose).integers(np.iinfo(np.int64).max))
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
