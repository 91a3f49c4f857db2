"""One training: all that changes while it goes on, and what a checkpoint holds of it."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from passes.context import Batch
from targets.errors import InvalidInput
from toolkit.training.batches import Batches, held_out
from toolkit.training.checkpoints import Checkpoint
from toolkit.training.interrupting import Interrupts, interrupts
from toolkit.training.judging import WORST, Score, check_labels, judge, on
from toolkit.training.precision import Precision, kind_for
from toolkit.training.repeatable import reseed
from toolkit.training.watching import Epoch

if TYPE_CHECKING:
    from toolkit.training.trainer import Trainer

__all__ = ["Loop"]

Loss = Callable[[nn.Module, Batch], Tensor]

_TELL_EVERY_S = 0.5


class Loop:
    """Checks, resumes and trains `model` in place; made and used once by `Trainer`."""

    def __init__(
        self, trainer: Trainer, model: nn.Module, loss: Loss, step: str, epochs: int, rate: float, device: torch.device
    ) -> None:
        settings, group = trainer.settings, trainer.group
        data, kept = trainer.data, trainer.validation
        if kept is None:
            data, kept = held_out(data, settings.held_out, trainer.seed)
            if kept is None and settings.held_out:
                kept = data  # too few to keep any apart: they still show whether training does harm
        self._trainer, self._model, self._loss, self._device = trainer, model, loss, device
        self._step, self._epochs, self._rate = step, epochs, rate
        self._batches = Batches(
            data=data,
            size=settings.batch * group.size,
            seed=trainer.seed,
            inputs=trainer.inputs,
            sampling=trainer.sampling,
        )
        self._judges = (
            Batches(data=kept, size=settings.batch, seed=trainer.seed, inputs=trainer.inputs) if kept else None
        )
        self._optimizer = trainer.optimizer(model, rate, settings.weight_decay)
        steps = epochs * len(self._batches)
        self._tending = None if trainer.tender is None else trainer.tender.tend(model, self._optimizer, steps)
        self._precision = Precision(device, kind_for(device, settings.amp))
        self._epoch = self._position = self._without_gain = 0
        self._best: Score = WORST
        self._best_weights: dict[str, Any] = {}
        self._history: list[Epoch] = []
        self._judged: dict[str, float] = {}
        self._losses = 0.0
        self._interrupts = Interrupts()
        self._saved_at = self._told_at = self._begun_at = time.monotonic()

    # ---- before time is spent

    def check(self) -> None:
        """Refuse data and losses that cannot be trained with, and find the name of the checkpoint."""
        data = self._trainer.data
        first = next(self._batches.in_order(), None)
        if first is None:
            raise InvalidInput(f"{data.name} has no samples to train on", hint="give data with --data")
        first = self._trainer.group.share(first)[0] if self._trainer.group.size > 1 else first
        check_labels(self._model, first, data.labels, self._device)
        if self._trainer.validation is not None:
            check_labels(self._model, first, self._trainer.validation.labels, self._device)
        score = judge(self._model, self._loss, [first], None, self._device)
        if not isfinite(score[1]):
            raise InvalidInput(
                f"{self._step}: the loss is not finite before training",
                hint="check that data and weights hold no infinity or NaN; inputs of about 1 are usual",
            )
        trainer = self._trainer
        self._checkpoint = Checkpoint(trainer.folder, self._key(score[1]), trainer.checkpoint, trainer.anew)

    def _key(self, first_loss: float) -> str:
        """The first loss stands for the function that gave it, and for the teacher within."""
        parts = [self._trainer.key, self._step, str(self._epochs), self._rate.hex(), first_loss.hex(), str(self._model)]
        state = hashlib.sha256("\n".join(parts).encode())
        for name, value in sorted(self._model.state_dict().items()):
            if not isinstance(value, Tensor):  # what a module keeps beside its tensors
                state.update(f"{name}|{json.dumps(value, sort_keys=True)}|".encode())
                continue
            raw = value.detach().cpu().contiguous()
            state.update(f"{name}|{raw.dtype}|{tuple(raw.shape)}|".encode())
            state.update(raw.reshape(-1).view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
        return state.hexdigest()

    # ---- the loop

    def to_the_end(self) -> None:
        """Train what is left, and leave the best weights in the model.

        Raises:
            KeyboardInterrupt: the user stopped it; the checkpoint holds the last step.
        """
        with interrupts() as self._interrupts:
            self._to_the_end()

    def _to_the_end(self) -> None:
        if self._epoch == 0 and self._position == 0 and self._judges is not None and not self._best_weights:
            self._judge_epoch()  # training may do harm: the weights that it began with are in the running
            self._tell(Epoch(number=0, **self._judged))
        while self._epoch < self._epochs and not self._is_stalled and not self._is_late:
            self._train_epoch()
            self._end_epoch()
            self._save()
            self._tell_progress(always=True)
        if self._best_weights:
            self._model.load_state_dict(self._best_weights)
        self._save(finished=True)
        self._trainer.watcher.finished(self._history)

    @property
    def _is_stalled(self) -> bool:
        return 0 < self._trainer.settings.patience <= self._without_gain

    @property
    def _is_late(self) -> bool:
        """Whether this process has trained for as long as it may."""
        longest_s = self._trainer.settings.longest_s
        return longest_s is not None and time.monotonic() - self._begun_at >= longest_s

    def _train_epoch(self) -> None:
        self._model.train()
        if self._trainer.thaw is not None:
            self._trainer.thaw.apply(self._model, self._epoch)
        group = self._trainer.group
        purpose = () if group.leads else (f"process {group.rank}",)
        for batch in self._batches.shuffled(self._epoch, self._position):
            mine, weight = group.share(batch)
            reseed(
                self._device, self._trainer.seed, "training", "step", str(self._epoch), str(self._position), *purpose
            )
            samples = len(next(iter(mine[0].values())))
            with self._trainer.watcher.step(self._epoch, self._position, samples):
                self._train_batch(on(mine, self._device), weight)
            if self._tending is not None:
                self._tending.stepped(self._steps_done)
            self._position += 1
            self._tell_progress()
            if time.monotonic() - self._saved_at >= self._trainer.settings.checkpoint_s or self._interrupts.asked:
                self._save()
            if self._interrupts.asked:
                raise KeyboardInterrupt
            if self._is_late:
                return

    def _tell_progress(self, *, always: bool = False) -> None:
        if always or time.monotonic() - self._told_at >= _TELL_EVERY_S:
            done = (self._epoch + self._position / len(self._batches)) / self._epochs
            self._trainer.progress(self._step, done)
            self._told_at = time.monotonic()

    def _train_batch(self, batch: Batch, weight: float) -> None:
        self._set_rate()
        gradient = partial(self._gradient, batch, weight)
        value = gradient() if self._tending is None else self._tending.relieved(self._steps_done, gradient)
        if value is None:
            return
        norm = self._precision.clipped(self._optimizer, self._model, self._trainer.settings.clip)
        if not self._precision.step(self._optimizer, norm):
            if self._tending is None:
                raise self._not_finite(self._where, "the gradient of the loss")
            self._tending.spoiled(self._steps_done)
            return
        self._losses += value

    def _gradient(self, batch: Batch, weight: float) -> float | None:
        """The loss, once its gradient lies with the weights; None where the step is to be left out."""
        group = self._trainer.group
        with self._precision.computing():
            loss = self._loss(self._model, batch)
        loss = loss * weight if group.size > 1 else loss
        own = float(loss.detach())
        if self._tending is not None and not self._tending.allows(self._steps_done, own):
            return None
        if group.size == 1 and not isfinite(own):
            raise self._not_finite(self._where)
        self._optimizer.zero_grad()
        self._precision.backward(loss)
        value = group.average(self._model, own)
        if not isfinite(value):  # that of any process
            raise self._not_finite(self._where)
        return value

    def _set_rate(self) -> None:
        rate = self._rate_at(self._position)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)

    @property
    def _steps_done(self) -> int:
        """Before the one that goes on."""
        return self._epoch * len(self._batches) + self._position

    def _rate_at(self, position: int) -> float:
        per_epoch = len(self._batches)
        step, steps = self._epoch * per_epoch + position, self._epochs * per_epoch
        return self._rate * self._trainer.schedule(step, steps, self._trainer.settings.warm_up)

    @property
    def _where(self) -> str:
        return f"in epoch {self._epoch + 1}, batch {self._position + 1}"

    def _end_epoch(self) -> None:
        loss, rate = self._losses / self._position, self._rate_at(self._position - 1)
        self._epoch, self._position, self._losses = self._epoch + 1, 0, 0.0
        self._trainer.group.average_buffers(self._model)
        if self._judges is not None:
            self._judge_epoch()
        self._tell(Epoch(number=self._epoch, loss=loss, rate=rate, **self._judged))

    def _judge_epoch(self) -> None:
        score = self._score()
        self._judged = {"metric": score[0], "judged_loss": -score[1]}
        if score > self._best:
            self._best, self._without_gain = score, 0
            self._best_weights = {n: _apart(v) for n, v in self._model.state_dict().items()}
        else:
            self._without_gain += 1

    def _score(self) -> Score:
        """By the leader alone: every process goes by the same figures."""
        assert self._judges is not None
        group, found = self._trainer.group, torch.zeros(2, dtype=torch.float64, device=self._device)
        if group.leads:
            score = judge(self._model, self._loss, self._judges.in_order(), self._trainer.metric, self._device)
            found = torch.tensor(score, dtype=torch.float64, device=self._device)
        metric, loss = group.from_leader(found).tolist()
        return metric, loss

    def _tell(self, epoch: Epoch) -> None:
        self._history.append(epoch)
        self._model.eval()
        self._trainer.watcher.epoch(epoch, self._model)

    def _not_finite(self, when: str, what: str = "the loss") -> InvalidInput:
        return InvalidInput(
            f"{self._step}: {what} is not finite {when}",
            hint="lower the rate; check that data and weights hold no infinity or NaN",
        )

    # ---- cut off and gone on

    def resume(self) -> None:
        """Go on where the checkpoint was made, if there is one."""
        state = self._checkpoint.load()
        self._trainer.group.wait()  # nobody writes before all have read
        if state is None:
            return
        self._model.load_state_dict(state["model"])
        self._epoch, self._position = state["epoch"], state["position"]
        self._history = [Epoch(**epoch) for epoch in state.get("history", ())]
        if self._tending is not None and state.get("tending") is not None:
            self._tending.load(state["tending"])
        if state["optimizer"] is not None:
            self._optimizer.load_state_dict(state["optimizer"])
            self._precision.load(state.get("precision", {}))
            self._best, self._without_gain = tuple(state["best"]), state["without_gain"]
            self._best_weights, self._losses = state["best_weights"], state.get("losses", 0.0)

    def _save(self, *, finished: bool = False) -> None:
        """A finished training is kept as its weights alone, and counts as having come to its last epoch."""
        self._saved_at = time.monotonic()
        if not self._trainer.group.leads:
            return
        self._checkpoint.save({
            "model": {name: _here(value) for name, value in self._model.state_dict().items()},
            "optimizer": None if finished else self._optimizer.state_dict(),
            "tending": None if finished or self._tending is None else self._tending.state(),
            "precision": {} if finished else self._precision.state(),
            "epoch": self._epochs if finished else self._epoch,
            "position": self._position,
            "best": list(self._best),
            "without_gain": self._without_gain,
            "best_weights": {} if finished else self._best_weights,
            "losses": self._losses,
            "history": [asdict(epoch) for epoch in self._history],
        })  # fmt: skip


def _here(value: Any) -> Any:
    """A tensor on the CPU; other state as it is."""
    return value.cpu() if isinstance(value, Tensor) else value


def _apart(value: Any) -> Any:
    """A copy that training does not touch."""
    return value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
