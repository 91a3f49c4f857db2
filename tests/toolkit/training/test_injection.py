"""What is handed to the trainer: a watcher, an optimizer, a schedule; nothing of it is global or goes unnamed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import Dataset
from targets.errors import InvalidInput
from toolkit.training.settings import Settings
from toolkit.training.trainer import Trainer
from toolkit.training.watching import Epoch


def points() -> Dataset:
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    return Dataset.of_arrays("points", {"x": x}, (x[:, 0] > 0).astype(np.int64))


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(3, 2)


def loss(network: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    assert labels is not None
    return nn.functional.cross_entropy(network(inputs["x"]), labels)


class Notes:
    """Everything that it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []
        self.epochs: list[Epoch] = []
        self.modes: list[bool] = []
        self.history: Sequence[Epoch] = ()

    @contextmanager
    def step(self, epoch: int, position: int, samples: int) -> Iterator[None]:
        self.steps.append((epoch, position, samples))
        yield

    def epoch(self, epoch: Epoch, network: nn.Module) -> None:
        self.epochs.append(epoch)
        self.modes.append(network.training)

    def finished(self, history: Sequence[Epoch]) -> None:
        self.history = tuple(history)


def trained(notes: Notes, folder: Path | None = None, objective: Any = loss, **fields: Any) -> nn.Module:
    settings = Settings(batch=10, patience=0, checkpoint_s=0.0)
    fit = Trainer(data=points(), validation=points(), settings=settings, watcher=notes, folder=folder, **fields)
    return fit(model(), objective, step="told", epochs=3, rate=0.1)


def test_a_watcher_is_told_of_every_step_and_epoch() -> None:
    notes = Notes()
    trained(notes)
    assert notes.steps == [(epoch, position, 10) for epoch in range(3) for position in range(4)]
    assert [epoch.number for epoch in notes.epochs] == [0, 1, 2, 3]
    assert notes.modes == [False] * 4
    assert tuple(notes.epochs) == notes.history
    first, *others = notes.epochs
    assert (first.loss, first.rate) == (None, None)
    losses = [epoch.loss for epoch in others if epoch.loss is not None]
    assert losses == sorted(losses, reverse=True)
    assert all(epoch.rate is not None and 0 < epoch.rate <= 0.1 for epoch in others)


def test_a_history_goes_on_after_an_interruption(tmp_path: Path) -> None:
    whole, notes, again = Notes(), Notes(), Notes()
    trained(whole)
    steps = 0

    def dying(network: nn.Module, batch: Batch) -> Tensor:
        nonlocal steps
        steps += network.training
        if steps == 7:
            raise KeyboardInterrupt
        return loss(network, batch)

    with pytest.raises(KeyboardInterrupt):
        trained(notes, tmp_path, dying)
    trained(again, tmp_path)
    assert again.history == whole.history
    assert len(notes.steps) + len(again.steps) == len(whole.steps) + 1, "the step that was cut off is done again"


def plain_descent(network: nn.Module, rate: float, _decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), rate)


def constant(_step: int, _steps: int, _warm_up: float) -> float:
    return 1.0


def test_an_injected_optimizer_is_what_updates() -> None:
    """Whole batches, plain descent at one rate: torch's own loop gives the same weights."""
    data = points()
    settings = Settings(batch=40, patience=0, held_out=0.0, clip=1e9)
    fit = Trainer(data=data, settings=settings, optimizer=plain_descent, schedule=constant)
    found = fit(model(), loss, step="descent", epochs=6, rate=0.5)
    by_hand = model()
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.5)
    x, y = torch.from_numpy(np.concatenate([s["x"] for s in data])), torch.from_numpy(np.asarray(data.labels))
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(x), y).backward()
        optimizer.step()
    for mine, theirs in zip(found.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_what_is_injected_decides_the_key_and_has_to_have_a_name() -> None:
    plain = Trainer(data=points())
    keys = {
        plain.key,
        Trainer(data=points(), optimizer=plain_descent).key,
        Trainer(data=points(), schedule=constant).key,
    }
    assert len(keys) == 3
    assert Trainer(data=points(), watcher=Notes()).key == plain.key, "a watcher decides nothing"
    for nameless in (lambda network, rate, decay: plain_descent(network, rate, decay), partial(plain_descent)):
        with pytest.raises(InvalidInput, match="has no name that a checkpoint could go by"):
            _ = Trainer(data=points(), optimizer=nameless).key
