"""What a training took: time and memory, of the processor or of a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from passes.context import Batch
from toolkit.training.watching import Epoch, Unwatched

__all__ = ["Spent", "now_s", "spending", "step_bytes"]


@dataclass
class Spent(Unwatched):
    """Watches a training, and knows afterwards what it took.

    Args:
        seconds: From its first step to its end; see `now_s`. What is set up before is left out.
        memory_bytes: The most that torch's allocator held on a GPU beside what it held before; NaN on a processor,
            whose allocator keeps no books.
    """

    device: torch.device
    seconds: float = 0.0
    memory_bytes: float = float("nan")
    _begun_s: float | None = None

    def step(self, epoch: int, position: int, samples: int) -> AbstractContextManager[None]:
        """See `Watcher`."""
        if self._begun_s is None:
            self._begun_s = now_s(self.device)
        return super().step(epoch, position, samples)

    def finished(self, history: Sequence[Epoch]) -> None:
        """See `Watcher`."""
        now = now_s(self.device)
        self.seconds = now - (now if self._begun_s is None else self._begun_s)


def now_s(device: torch.device) -> float:
    """Processor time of this process, which others do not lengthen; on a GPU, elapsed time once it has done all."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def spending(device: torch.device) -> Iterator[Spent]:
    """A block in which a training, whose watcher `Spent` is, runs on `device`."""
    spent = Spent(device)
    held = 0
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    yield spent
    if device.type == "cuda":
        spent.memory_bytes = float(torch.cuda.max_memory_allocated(device) - held)


def step_bytes(model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], batch: Batch) -> int:
    """What a step of AdamW holds, counted and not measured: weights, their gradients and two moments, and each tensor
    that the forward pass keeps for the gradient, once."""
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves: an address that is free may be given out again

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda x: x):
        loss(model, batch)
    inner = sum(x.untyped_storage().nbytes() for address, x in kept.items() if address not in weights)
    return 4 * sum(weights.values()) + inner
