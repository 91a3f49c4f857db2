"""The one place that trains: a loop over batches that can be cut off anywhere and then goes on to the same weights."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import Dataset
from passes.metric import Metric
from targets.errors import InvalidInput
from toolkit.training.batches import Batches, held_out
from toolkit.training.checkpoints import Checkpoint
from toolkit.training.judging import WORST, Score, check_labels, judge, on
from toolkit.training.optimizing import optimizer_for, share_of_rate
from toolkit.training.repeatable import repeatable, reseed

__all__ = ["Settings", "Trainer"]

Loss = Callable[[nn.Module, Batch], Tensor]

_FORMAT = "edge-toolkit training 1"


def _silent(_step: str, _done: float) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a module is trained.

    Args:
        batch: Samples in a batch at most.
        weight_decay: Of matrices and kernels; biases, norms and scales have none.
        warm_up: Share of the steps in which the rate rises.
        patience: Epochs without a better score after which training stops; 0 never stops early.
        clip: Largest norm of the gradient; longer ones are shortened to it.
        amp: What a GPU multiplies in; a CPU computes in float32.
        held_out: Share of the data that judges instead of training, where there are no validation data. Where that is
            less than a sample, all of them do both; with 0 none judges, and the last weights are the result.
        checkpoint_s: Seconds between checkpoints; there is one after each epoch as well.
        device: "cpu", or "cuda" for a GPU.
        threads: Of the CPU. More are faster, but on other machines they may round in other ways.
    """

    batch: int = 64
    weight_decay: float = 1e-2
    warm_up: float = 0.05
    patience: int = 10
    clip: float = 1.0
    amp: Literal["bfloat16", "float32"] = "bfloat16"
    held_out: float = 0.1
    checkpoint_s: float = 60.0
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.batch, self.threads) < 1 or self.clip <= 0 or not 0 <= self.held_out < 1:
            raise InvalidInput(
                f"training cannot go by {self}",
                hint="batch and threads from 1, clip above 0, held_out from 0 to below 1",
            )


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
    """

    data: Dataset
    validation: Dataset | None = None
    metric: Metric | None = None
    inputs: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    folder: Path | None = None
    progress: Callable[[str, float], None] = _silent

    @property
    def key(self) -> str:
        """See `passes.context.Fit`."""
        decides = {k: v for k, v in asdict(self.settings).items() if k != "checkpoint_s"}
        parts = [_FORMAT, torch.__version__, json.dumps(decides), str(self.seed), ",".join(self.inputs),
                 self.data.digest, self.validation.digest if self.validation else "",
                 self.metric.name if self.metric else ""]  # fmt: skip
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def __call__(self, model: nn.Module, loss: Loss, *, step: str, epochs: int, rate: float) -> nn.Module:
        """See `passes.context.Fit`. A loss that is a module is copied to the device as well.

        Raises:
            InvalidInput: as there; besides, epochs or rate mean nothing, or there is no GPU where one was asked for.
        """
        if epochs < 0 or not (isfinite(rate) and rate > 0):
            raise InvalidInput(
                f"{step} cannot train {epochs} epochs at a rate of {rate:g}",
                hint="epochs are 0 or more, the rate is above 0",
            )
        device = _device(self.settings.device)
        trained = copy.deepcopy(model).to(device)
        objective = copy.deepcopy(loss).to(device) if isinstance(loss, nn.Module) else loss
        with repeatable(device, self.settings.threads):
            run = _Run(self, trained, objective, step, epochs, rate, device)
            run.check()
            run.resume()
            run.to_the_end()
        return trained.cpu().eval()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("this machine has no GPU that torch can use", hint="train on the CPU")
    return torch.device(name)


class _Run:
    """One training: all that changes while it goes on, and what a checkpoint holds of it."""

    def __init__(
        self, trainer: Trainer, model: nn.Module, loss: Loss, step: str, epochs: int, rate: float, device: torch.device
    ) -> None:
        settings = trainer.settings
        data, kept = trainer.data, trainer.validation
        if kept is None:
            data, kept = held_out(data, settings.held_out, trainer.seed)
            if kept is None and settings.held_out:
                kept = data  # too few to keep any apart: they still show whether training does harm
        self._trainer, self._model, self._loss, self._device = trainer, model, loss, device
        self._step, self._epochs, self._rate = step, epochs, rate
        self._batches = Batches(data=data, size=settings.batch, seed=trainer.seed, inputs=trainer.inputs)
        self._judges = (
            Batches(data=kept, size=settings.batch, seed=trainer.seed, inputs=trainer.inputs) if kept else None
        )
        self._optimizer = optimizer_for(model, rate, settings.weight_decay)
        self._epoch = self._position = self._without_gain = 0
        self._best: Score = WORST
        self._best_weights: dict[str, Tensor] = {}
        self._saved_at = time.monotonic()

    # ---- before time is spent

    def check(self) -> None:
        """Refuse data and losses that cannot be trained with, and find the name of the checkpoint."""
        data = self._trainer.data
        first = next(self._batches.in_order(), None)
        if first is None:
            raise InvalidInput(f"{data.name} has no samples to train on", hint="give data with --data")
        check_labels(self._model, first, data.labels, self._device)
        if self._trainer.validation is not None:
            check_labels(self._model, first, self._trainer.validation.labels, self._device)
        score = judge(self._model, self._loss, [first], None, self._device)
        if not isfinite(score[1]):
            raise self._not_finite("before training")
        self._checkpoint = Checkpoint(self._trainer.folder, self._key(score[1]))

    def _key(self, first_loss: float) -> str:
        """The first loss stands for the function that gave it, and for the teacher within."""
        parts = [self._trainer.key, self._step, str(self._epochs), self._rate.hex(), first_loss.hex(), str(self._model)]
        state = hashlib.sha256("\n".join(parts).encode())
        for name, value in sorted(self._model.state_dict().items()):
            raw = value.detach().cpu().contiguous()
            state.update(f"{name}|{raw.dtype}|{tuple(raw.shape)}|".encode())
            state.update(raw.reshape(-1).view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
        return state.hexdigest()

    # ---- the loop

    def to_the_end(self) -> None:
        """Train what is left, and leave the best weights in the model."""
        if self._epoch == 0 and self._position == 0 and self._judges is not None and not self._best_weights:
            self._judge_epoch()  # training may do harm: the weights that it began with are in the running
        while self._epoch < self._epochs and not self._is_stalled:
            self._train_epoch()
            self._epoch, self._position = self._epoch + 1, 0
            if self._judges is not None:
                self._judge_epoch()
            self._save()
            self._trainer.progress(self._step, self._epoch / self._epochs)
        if self._best_weights:
            self._model.load_state_dict(self._best_weights)
        self._save(finished=True)

    @property
    def _is_stalled(self) -> bool:
        return 0 < self._trainer.settings.patience <= self._without_gain

    def _train_epoch(self) -> None:
        self._model.train()
        for batch in self._batches.shuffled(self._epoch, self._position):
            reseed(self._device, self._trainer.seed, "training", "step", str(self._epoch), str(self._position))
            self._train_batch(on(batch, self._device))
            self._position += 1
            if time.monotonic() - self._saved_at >= self._trainer.settings.checkpoint_s:
                self._save()

    def _train_batch(self, batch: Batch) -> None:
        settings = self._trainer.settings
        per_epoch = len(self._batches)
        share = share_of_rate(self._epoch * per_epoch + self._position, self._epochs * per_epoch, settings.warm_up)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * share
        with self._precision():
            loss = self._loss(self._model, batch)
        if not bool(torch.isfinite(loss)):
            raise self._not_finite(self._where)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), settings.clip)
        if not bool(torch.isfinite(norm)):
            raise self._not_finite(
                f"in epoch {self._epoch + 1}, batch {self._position + 1}", "the gradient of the loss"
            )
        self._optimizer.step()

    @property
    def _where(self) -> str:
        return f"in epoch {self._epoch + 1}, batch {self._position + 1}"

    def _precision(self) -> AbstractContextManager[Any]:
        if self._device.type != "cuda" or self._trainer.settings.amp == "float32":
            return nullcontext()
        return torch.autocast("cuda", dtype=torch.bfloat16)

    def _judge_epoch(self) -> None:
        assert self._judges is not None
        score = judge(self._model, self._loss, self._judges.in_order(), self._trainer.metric, self._device)
        if score > self._best:
            self._best, self._without_gain = score, 0
            self._best_weights = {n: v.detach().cpu().clone() for n, v in self._model.state_dict().items()}
        else:
            self._without_gain += 1

    def _not_finite(self, when: str, what: str = "the loss") -> InvalidInput:
        return InvalidInput(
            f"{self._step}: {what} is not finite {when}",
            hint="lower the pass's rate; check that data and weights hold no infinity or NaN",
        )

    # ---- cut off and gone on

    def resume(self) -> None:
        """Go on where the checkpoint was made, if there is one."""
        state = self._checkpoint.load()
        if state is None:
            return
        self._model.load_state_dict(state["model"])
        self._epoch, self._position = state["epoch"], state["position"]
        if state["optimizer"] is not None:
            self._optimizer.load_state_dict(state["optimizer"])
            self._best, self._without_gain = tuple(state["best"]), state["without_gain"]
            self._best_weights = state["best_weights"]

    def _save(self, *, finished: bool = False) -> None:
        """A finished training is kept as its weights alone, and counts as having come to its last epoch."""
        self._checkpoint.save({
            "model": {name: value.cpu() for name, value in self._model.state_dict().items()},
            "optimizer": None if finished else self._optimizer.state_dict(),
            "epoch": self._epochs if finished else self._epoch,
            "position": self._position,
            "best": list(self._best),
            "without_gain": self._without_gain,
            "best_weights": {} if finished else self._best_weights,
        })  # fmt: skip
        self._saved_at = time.monotonic()
