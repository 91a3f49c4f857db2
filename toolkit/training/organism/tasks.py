"""Toy tasks whose answers are known: a sine, XOR, parity; and the next character of a text that every Python has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import Dataset
from targets.errors import InvalidInput, UnknownName
from toolkit.models import help_text
from toolkit.organism.settings import SlimeConfig
from toolkit.rng import numpy_generator
from toolkit.training.organism.losses import cross_entropy, mse

__all__ = ["TASKS", "Task", "characters", "config_of", "of_text", "parity", "sine", "task", "xor"]

_POINTS = 16
_WANTED = "wanted"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learnt.

    Args:
        learnt, judged: Samples with the input "x", and labels or the input "wanted".
        inputs: Features of a token, or the size of the vocabulary where tokens are `ids`.
        outputs: Numbers that the network answers at each token: logits of classes, or values.
        length: Tokens of a sample at most.
        causal: Whether a token sees only those up to it.
        asked: Which tokens answer; with "last", networks answer once for a sample.
    """

    name: str
    learnt: Dataset
    judged: Dataset
    inputs: int
    outputs: int
    length: int
    ids: bool = False
    causal: bool = False
    asked: Literal["each", "last"] = "each"

    @property
    def is_regression(self) -> bool:
        """Whether values are answered, and judged by their mean squared error."""
        return self.learnt.labels is None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the shared trainer asks for it: mean squared error, or mean cross entropy in nats."""
        answers, wanted = self._answers(model, batch)
        return mse(answers, wanted) if self.is_regression else cross_entropy(answers, wanted)

    def right(self, model: nn.Module, batch: Batch) -> float:
        """Share of right answers.

        Raises:
            InvalidInput: values are answered, none of which is right or wrong.
        """
        if self.is_regression:
            raise InvalidInput(f"{self.name} has no right answers", hint="judge it by its loss")
        with torch.no_grad():
            answers, wanted = self._answers(model, batch)
            return float((answers.argmax(dim=-1) == wanted).double().mean())

    def _answers(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, labels = batch
        answers: Tensor = model(inputs["x"])
        return answers, inputs[_WANTED] if labels is None else labels


def sine(seed: int, *, samples: int = 2048) -> Task:
    """The sine of each of 16 points drawn from -pi to pi."""

    def part(name: str, count: int) -> Dataset:
        x = numpy_generator(seed, "sine", name).uniform(-np.pi, np.pi, (count, _POINTS, 1)).astype(np.float32)
        return Dataset.of_arrays(f"sine, {name}", {"x": x, _WANTED: np.sin(x)})

    return Task(name="sine", learnt=part("learnt", samples), judged=part("judged", samples // 8), inputs=1, outputs=1,
                length=_POINTS)  # fmt: skip


def parity(seed: int, *, bits: int = 8, samples: int = 4096) -> Task:
    """Whether an odd number of bits, drawn as -1 or 1, is set; the last token answers. All words judge, up to 2^12."""
    if not 2 <= bits <= 64:
        raise InvalidInput(f"no parity of {bits} bits", hint="2 to 64 bits")

    def part(name: str, words: np.ndarray) -> Dataset:  # type: ignore[type-arg]
        x = (2.0 * words - 1).astype(np.float32)[:, :, None]
        return Dataset.of_arrays(f"parity of {bits} bits, {name}", {"x": x}, words.sum(1) % 2)

    rng = numpy_generator(seed, "parity", bits)
    learnt = rng.integers(0, 2, (samples, bits))
    every = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1 if bits <= 12 else rng.integers(0, 2, (4096, bits))
    return Task(name=f"parity-{bits}", learnt=part("learnt", learnt), judged=part("judged", every), inputs=1, outputs=2,
                length=bits, asked="last")  # fmt: skip


def xor(seed: int) -> Task:
    """The parity of two bits."""
    return parity(seed, bits=2, samples=1024)


def characters(seed: int, *, length: int = 64) -> Task:
    """The character behind each of 64, from Python's help topics; `seed` decides nothing, the text is what it is."""
    parts = {name: help_text.windows(name, length) for name in ("training", "validation")}
    return of_text(parts["training"], parts["validation"], vocabulary=help_text.ALPHABET_SIZE, length=length)


def of_text(learnt: Dataset, judged: Dataset, *, vocabulary: int, length: int) -> Task:
    """The id behind each id of windows, which come as one input of any name and labels (n, length) both."""
    return Task(name="characters", learnt=_as_x(learnt), judged=_as_x(judged), inputs=vocabulary, outputs=vocabulary,
                length=length, ids=True, causal=True)  # fmt: skip


def _as_x(data: Dataset) -> Dataset:
    held = np.concatenate([next(iter(sample.values())) for sample in data])
    return Dataset.of_arrays(data.name, {"x": held}, data.labels)


def config_of(task: Task, *, seed: int, **sizes: Any) -> SlimeConfig:
    """Of a network of organisms for `task`; `sizes` are fields of SlimeConfig."""
    return SlimeConfig(inputs=task.inputs, outputs=task.outputs, length=task.length, ids=task.ids, causal=task.causal,
                       asked=task.asked, seed=seed, **sizes)  # fmt: skip


TASKS: Mapping[str, Callable[[int], Task]] = {
    "sine": sine, "xor": xor, "parity": parity, "characters": characters,
}  # fmt: skip


def task(name: str, seed: int) -> Task:
    """The task called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in TASKS:
        raise UnknownName("task", name, TASKS)
    return TASKS[name](seed)
