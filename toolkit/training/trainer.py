"""The one place that trains: a loop over batches that can be cut off anywhere and then goes on to the same weights."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import Dataset
from passes.metric import Metric
from targets.errors import InvalidInput, MissingDependency
from toolkit.training.distributed import ALONE, Group
from toolkit.training.loop import Loop
from toolkit.training.optimizing import MakeOptimizer, Schedule, name_of, optimizer_for, share_of_rate
from toolkit.training.recomputing import recomputing
from toolkit.training.repeatable import repeatable
from toolkit.training.sampling import Sampling
from toolkit.training.settings import Settings
from toolkit.training.tending import Tender
from toolkit.training.thawing import Thaw
from toolkit.training.watching import Unwatched, Watcher

__all__ = ["Settings", "Trainer"]

_FORMAT = "edge-toolkit training 1"


def _silent(_step: str, _done: float) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Implements `passes.context.Fit`: AdamW, cosine decay, early stop at the best weights, checkpoints.

    Equal arguments give equal bytes on the CPU, whether or not the process was killed in between; torch's global
    generators and settings are as before when it returns.

    Args:
        data: What is trained on, labelled or not.
        validation: What judges each epoch; a part of `data` that is then not trained on where None.
        metric: Judges where the validation data have labels; the loss judges where None, and between equals.
        inputs: Names of the model's inputs in the order of its forward; in that of the samples where empty.
        folder: Where checkpoints are kept; None keeps none.
        progress: Called with the step's name and its share done.
        checkpoint: In place of `folder`, a file for this training alone; with `anew`, what it holds of another one is
            replaced: see `Checkpoint`.
        optimizer, schedule: What updates the weights, and at which rate; a function of a module, or an object whose
            `key` says all that decides it.
        sampling: What each epoch learns from; every sample once, at random, where None.
        thaw: What learns in which epoch; all that requires a gradient where None.
        watcher: Is told of steps and epochs.
        tender: Changes the model between steps; nobody does where None.
        group: Processes that train together.
    """

    data: Dataset
    validation: Dataset | None = None
    metric: Metric | None = None
    inputs: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    folder: Path | None = None
    progress: Callable[[str, float], None] = _silent
    checkpoint: Path | None = None
    anew: bool = False
    optimizer: MakeOptimizer = optimizer_for
    schedule: Schedule = share_of_rate
    sampling: Sampling | None = None
    thaw: Thaw | None = None
    watcher: Watcher = field(default_factory=Unwatched)
    tender: Tender | None = None
    group: Group = ALONE

    @property
    def key(self) -> str:
        """See `passes.context.Fit`."""
        parts = [_FORMAT, torch.__version__, json.dumps(self.settings.deciding()), str(self.seed),
                 ",".join(self.inputs), self.data.digest, self.validation.digest if self.validation else "",
                 self.metric.name if self.metric else "", *self._unusual()]  # fmt: skip
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _unusual(self) -> list[str]:
        """What was injected; nothing where nothing was, so that weights of before keep their keys."""
        found = {
            "optimizer": None if self.optimizer is optimizer_for else name_of(self.optimizer),
            "schedule": None if self.schedule is share_of_rate else name_of(self.schedule),
            "sampling": self.sampling and self.sampling.key,
            "thaw": self.thaw and self.thaw.key,
            "tender": self.tender and self.tender.key,
            "processes": str(self.group.size) if self.group.size > 1 else None,
        }
        return [f"{name} {value}" for name, value in found.items() if value is not None]

    def __call__(
        self, model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], *, step: str, epochs: int, rate: float
    ) -> nn.Module:
        """See `passes.context.Fit`. A loss that is a module is copied to the device as well.

        Raises:
            InvalidInput: as there; besides, epochs or rate mean nothing, or `checkpoint` holds another training.
            MissingDependency: there is no GPU where one was asked for, or too little memory.
        """
        if epochs < 0 or not (isfinite(rate) and rate > 0):
            raise InvalidInput(
                f"{step} cannot train {epochs} epochs at a rate of {rate:g}",
                hint="epochs are 0 or more, the rate is above 0",
            )
        if self.tender is not None and self.group.size > 1:
            raise InvalidInput(
                f"{step}: parts that come and go are trained by one process, not by {self.group.size}",
                hint="start it without torchrun",
            )
        device = _device(self.settings.device)
        trained = copy.deepcopy(model).to(device)
        objective = copy.deepcopy(loss).to(device) if isinstance(loss, nn.Module) else loss
        with repeatable(device, self.settings.threads), _enough_memory(step, device):
            loop = Loop(self, trained, objective, step, epochs, rate, device)
            loop.check()
            loop.resume()
            with recomputing(trained, wanted=self.settings.recompute):
                loop.to_the_end()
        return trained.cpu().eval()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingDependency("this machine has no GPU that torch can use", hint="train on the CPU")
    return torch.device(name)


@contextmanager
def _enough_memory(step: str, device: torch.device) -> Iterator[None]:
    """Too little of it is said in words; the checkpoint stays."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine"
        raise MissingDependency(
            f"{step}: a batch takes more memory than {where} has left",
            hint="lower batch, set methods.recompute=true, or train a smaller network",
        ) from error
