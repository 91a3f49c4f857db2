"""More than fits: batch after batch, where the next goes in and the last comes out while one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from kernels.vulkan.device import Array, Device, Pending

__all__ = ["streamed"]

_Values = np.ndarray[Any, Any]


def streamed(
    device: Device,
    compute: Callable[..., Array],
    batches: Iterable[Sequence[_Values]],
    *,
    ahead: int = 2,
) -> Iterator[_Values]:
    """compute(device, *arrays) of each batch, in order.

    While a result is waited for, up to `ahead` batches behind it are uploaded and queued: with 2, the default, one is
    computed while its neighbours travel. Every batch has buffers of its own, so that none is written while it is read.

    Args:
        compute: An operator of this package, or any function that submits work and returns its result.
        batches: The arrays of each batch.
        ahead: Batches that are on the device at most.

    Raises:
        ValueError: `ahead` is below 1.
    """
    if ahead < 1:
        raise ValueError(f"{ahead} batches on the device: at least one is needed")
    waiting: deque[Pending] = deque()
    for batch in batches:
        waiting.append(device.fetch(compute(device, *(device.put(values) for values in batch))))
        if len(waiting) >= ahead:
            yield waiting.popleft().wait()
    while waiting:
        yield waiting.popleft().wait()
