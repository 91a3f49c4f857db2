"""When memory runs out in the middle of a step: let the worst go, and try that step once more."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from toolkit.errors import BudgetExceeded
from toolkit.organism.errors import first_line

__all__ = ["with_relief"]

T = TypeVar("T")
_TOO_LITTLE = (torch.OutOfMemoryError, MemoryError, BudgetExceeded)
"""Of torch, of Python, and of a kernel that asked before it launched anything."""


def with_relief(run: Callable[[], T], cull: Callable[[], Sequence[str]]) -> T:
    """`run()`; where a device or a kernel has not enough memory, caches are freed, some culled, and it runs again.

    Args:
        run: Must not have changed anything when it fails: forward and backward, without the optimizer's step.
        cull: Lets some go, and says whom: `functools.partial(pool.cull_worst, step=step)`.

    Raises:
        BudgetExceeded: nobody may go, or memory does not suffice the second time either.
    """
    try:
        return run()
    except _TOO_LITTLE as error:
        reason = first_line(error)
    _free_caches()  # outside of the except clause: the error's frames hold what is to be freed
    gone = cull()
    if gone:
        try:
            return run()
        except _TOO_LITTLE as error:
            reason = first_line(error)
    raise BudgetExceeded(
        f"memory does not suffice after {len(gone)} components went: {reason}",
        hint="take smaller batches or shorter sequences, or lower max_size",
    )


def _free_caches() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
