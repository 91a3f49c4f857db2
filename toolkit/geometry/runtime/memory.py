"""An arena for tensors on the CPU that knows its peak and its fragmentation, and a meter of the bytes that are alive.

torch keeps no statistics of its CPU allocator. So the manager owns its memory: one buffer, from which the smallest free
block that is large enough is taken, cut up, and joined with its neighbours when it comes back. A block lives as long as
anything that reads it: a view, or an autograd graph.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toolkit.errors import BudgetExceeded, GeometryError

__all__ = ["ALIGNMENT", "LiveBytes", "MemoryManager", "live_bytes"]

ALIGNMENT = 64
"""Bytes; a cache line, and a register of AVX-512."""


class MemoryManager:
    """Tensors from one buffer of `capacity_bytes`.

    Raises:
        GeometryError: a capacity below one block.
    """

    def __init__(self, capacity_bytes: int) -> None:
        if capacity_bytes < ALIGNMENT:
            raise GeometryError(f"an arena of {capacity_bytes} bytes holds nothing", hint=f"give {ALIGNMENT} or more")
        self._capacity = capacity_bytes // ALIGNMENT * ALIGNMENT
        buffer = np.empty(self._capacity + ALIGNMENT, np.uint8)
        first = -buffer.ctypes.data % ALIGNMENT  # numpy aligns to 16
        self._buffer = buffer[first : first + self._capacity]
        self._free = _FreeList(self._capacity)
        self._allocated = self._peak = 0

    def allocate_tensor(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of that shape, its numbers undefined, at an address that is a multiple of 64.

        Raises:
            GeometryError: a negative size.
            BudgetExceeded: no free block is large enough.
        """
        if any(size < 0 for size in shape):
            raise GeometryError(f"a tensor of {tuple(shape)}", hint="sizes are 0 or more")
        wanted = prod(shape) * dtype.itemsize
        block = max(-(-wanted // ALIGNMENT), 1) * ALIGNMENT
        start = self._free.take(block)
        if start is None:
            raise BudgetExceeded(
                f"no free block of {block:,} bytes: {self._free.total:,} are free, {self._free.largest:,} in one",
                hint="release tensors, or make the arena larger",
            )
        piece = self._buffer[start : start + wanted].view()
        # a finalizer on the tensor would fire while views still read the block; torch keeps this array for them
        weakref.finalize(piece, self._release, start, block, wanted)
        self._allocated += wanted
        self._peak = max(self._peak, self._allocated)
        if not wanted:
            return torch.empty(tuple(shape), dtype=dtype)
        return torch.frombuffer(piece, dtype=dtype).reshape(tuple(shape))

    def _release(self, start: int, block: int, wanted: int) -> None:
        self._allocated -= wanted
        self._free.give(start, block)

    @property
    def capacity_bytes(self) -> int:
        return self._capacity

    def get_allocated_memory(self) -> int:
        """Bytes asked for by tensors that are alive."""
        return self._allocated

    def get_peak_memory(self) -> int:
        """The most that it has been since the last `reset_peak`."""
        return self._peak

    def reset_peak(self) -> None:
        """Count the peak from what is alive now."""
        self._peak = self._allocated

    def get_fragmentation_ratio(self) -> float:
        """1 − largest free block / all that is free; 0 where nothing is free."""
        return 1 - self._free.largest / self._free.total if self._free.total else 0.0

    def inplace_operation(self, tensor: Tensor, operation: Callable[[Tensor], Tensor]) -> Tensor:
        """`operation(tensor)`, which must write where it reads.

        Raises:
            GeometryError: the tensor is a leaf that wants a gradient, or the result lies elsewhere.
        """
        if tensor.requires_grad and tensor.is_leaf:
            raise GeometryError("a leaf that wants a gradient is not written over", hint="detach it, or work on a copy")
        result = operation(tensor)
        if result.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
            raise GeometryError("the operation made a new tensor", hint="use one that ends in an underscore, or out=")
        return result

    def optimized_matmul(self, x: Tensor, y: Tensor, *, budget_bytes: int) -> Tensor:
        """x @ y of two matrices, rows of the result at a time, so that a block of the result is within the budget.

        The result itself lies in the arena. Under the budget it is one product.

        Raises:
            GeometryError: they are no matrices that can be multiplied, or the budget holds no row.
            BudgetExceeded: the arena has no room for the result.
        """
        if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[0]:
            raise GeometryError(f"{tuple(x.shape)} times {tuple(y.shape)}", hint="give (rows, n) and (n, columns)")
        row_bytes = y.shape[1] * x.element_size()
        rows = budget_bytes // max(row_bytes, 1)
        if rows < 1:
            raise GeometryError(f"a budget of {budget_bytes} bytes", hint=f"a row of the result takes {row_bytes}")
        out = self.allocate_tensor((x.shape[0], y.shape[1]), x.dtype)
        for first in range(0, x.shape[0], rows):
            torch.mm(x[first : first + rows], y, out=out[first : first + rows])
        return out


class _FreeList:
    """Blocks that are free, by their start; neighbours are one block."""

    def __init__(self, size: int) -> None:
        self._starts = [0]
        self._sizes = {0: size}

    @property
    def total(self) -> int:
        return sum(self._sizes.values())

    @property
    def largest(self) -> int:
        return max(self._sizes.values(), default=0)

    def take(self, size: int) -> int | None:
        """Where `size` bytes were taken from: the smallest block that has them, the first of equals; None if none."""
        fitting = [start for start in self._starts if self._sizes[start] >= size]
        if not fitting:
            return None
        start = min(fitting, key=lambda at: self._sizes[at])
        left = self._sizes.pop(start) - size
        self._starts.remove(start)
        if left:
            self._insert(start + size, left)
        return start

    def give(self, start: int, size: int) -> None:
        at = bisect_left(self._starts, start)
        if at < len(self._starts) and self._starts[at] == start + size:
            size += self._sizes.pop(self._starts.pop(at))
        if at > 0 and (before := self._starts[at - 1]) + self._sizes[before] == start:
            self._sizes[before] += size
            return
        self._insert(start, size)

    def _insert(self, start: int, size: int) -> None:
        insort(self._starts, start)
        self._sizes[start] = size


@dataclass
class LiveBytes:
    """What tensors made since the meter started hold; autograd's included, scratch within a kernel not."""

    now: int = 0
    peak: int = 0
    storages: int = 0
    """New storages, whether alive or not."""
    operators: int = 0
    """Calls of operators."""
    _alive: set[int] = field(default_factory=set)

    def _made(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        self._alive.add(key)
        self.now += size
        self.storages += 1
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, found: LiveBytes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found
        self.known: set[int] = set()  # storages that others made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in _dense_parts((args, kwargs)):
            self._know(leaf.untyped_storage())
        result = func(*args, **(kwargs or {}))
        self.found.operators += 1
        for leaf in _dense_parts(result):
            if leaf.untyped_storage()._cdata not in self.known:
                self.found._made(leaf)
        return result

    def _know(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.known and key not in self.found._alive:
            self.known.add(key)
            weakref.finalize(storage, self.known.discard, key)  # its number may be given to another one


def _dense_parts(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree; of a sparse one what it is made of."""
    for leaf in tree_leaves(tree):
        if not isinstance(leaf, Tensor):
            continue
        if leaf.layout == torch.strided:
            yield leaf
        elif leaf.layout == torch.sparse_coo:
            yield from (leaf._indices(), leaf._values())
        elif leaf.layout in (torch.sparse_csr, torch.sparse_bsr):
            yield from (leaf.crow_indices(), leaf.col_indices(), leaf.values())
        elif leaf.layout in (torch.sparse_csc, torch.sparse_bsc):
            yield from (leaf.ccol_indices(), leaf.row_indices(), leaf.values())


@contextmanager
def live_bytes() -> Iterator[LiveBytes]:
    """Count the bytes of tensors that the block makes: the same in every run.

    Scratch memory within a kernel is not seen: of torch's fused attention, a few blocks of each thread.
    """
    found = LiveBytes()
    with _Meter(found):
        yield found
