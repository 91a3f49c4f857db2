"""Data-parallel training in the processes that torchrun starts; one process needs nothing of this.

    torchrun --nproc-per-node 2 -m toolkit.cli.main train RECIPE

Each process takes its share of every batch, which is as many times larger, and gradients are averaged in one sum after
the backward pass. The loss may call any part of the model, which torch's DistributedDataParallel would not see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from passes.context import Batch
from targets.errors import InvalidInput
from toolkit.training.batches import weight_of

__all__ = ["ALONE", "Group", "torchrun_group"]


@dataclass(frozen=True)
class Group:
    """Processes that train one model: which of them this is, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one judges, writes and prints."""
        return self.rank == 0

    def share(self, batch: Batch) -> tuple[Batch, float]:
        """This process's part of a batch for all, and what its mean loss has to be weighed with: by samples, or by the
        positions that their labels ask.

        Where there are fewer samples than processes, some compute one that counts nothing.
        """
        if self.size == 1:
            return batch, 1.0
        inputs, labels = batch
        count = len(next(iter(inputs.values())))
        low, high = count * self.rank // self.size, count * (self.rank + 1) // self.size
        part = slice(low, high) if high > low else slice(0, 1)
        mine: Batch = {name: tensor[part] for name, tensor in inputs.items()}, None if labels is None else labels[part]
        return mine, weight_of(mine) * self.size / weight_of(batch) if high > low else 0.0

    def average(self, model: nn.Module, loss: float) -> float:
        """Replace every gradient by its mean over the processes. Returns the mean of `loss`, which any can spoil.

        A part of the model that some processes did not use counts as nought there; one that none used has no gradient.
        """
        if self.size == 1:
            return loss
        learning = [p for p in model.parameters() if p.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        facts = torch.tensor([*(float(p.grad is not None) for p in learning), loss], device=_device_of(learning))
        flat = torch.cat([*(grad.reshape(-1).float() for grad in grads), facts])
        dist.all_reduce(flat)
        flat /= self.size
        *means, users, total = torch.split(flat, [*(p.numel() for p in learning), len(learning), 1])
        for parameter, mean, used in zip(learning, means, users.tolist(), strict=True):
            parameter.grad = mean.view_as(parameter).to(parameter.dtype) if used else None
        return float(total)

    def average_buffers(self, model: nn.Module) -> None:
        """Running means and variances of norms, which each process took from its own samples."""
        for buffer in model.buffers() if self.size > 1 else ():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.size

    def from_leader(self, values: Tensor) -> Tensor:
        """The leader's values, on every process."""
        if self.size > 1:
            dist.broadcast(values, 0)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def _device_of(parameters: list[nn.Parameter]) -> torch.device:
    return parameters[0].device if parameters else torch.device("cpu")


ALONE = Group()


@contextmanager
def torchrun_group(device: str) -> Iterator[Group]:
    """The group that torchrun's environment describes; one process where there is none.

    Raises:
        InvalidInput: the environment is half there, or there are fewer GPUs than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if missing := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise InvalidInput(f"WORLD_SIZE is {size} without {', '.join(missing)}", hint="start it with torchrun")
    local = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise InvalidInput(
                f"there are {torch.cuda.device_count()} GPUs, and this is process {local + 1} of this machine",
                hint="start as many processes as there are GPUs: torchrun --nproc-per-node",
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
