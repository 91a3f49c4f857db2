"""Perplexity of both models on the same characters, trained on the same ones in the same order for as long.

The text is that of `toolkit.bench.characters`: Python's own documentation, whole documents kept apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import exp, isfinite
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from passes.context import Batch
from passes.dataset import Dataset
from targets.errors import ToolkitError
from toolkit.bench import characters
from toolkit.models import resnet_bk, transformer
from toolkit.models.resnet_bk.chain import Chain
from toolkit.models.resnet_bk.objectives import next_id
from toolkit.training.precision import Kind
from toolkit.training.trainer import Settings, Trainer

__all__ = ["STABILITY", "Learned", "Lesson", "compare", "next_character_loss", "without_clamps"]

_CLAMPS: Mapping[str, Mapping[str, float | None]] = {
    "both clamps": {},
    "no potential clamp": {"potential_clamp": None},
    "no feature clamp": {"feature_clamp": None},
    "no clamps": {"potential_clamp": None, "feature_clamp": None},
}
STABILITY = tuple(_CLAMPS)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What every model gets.

    Args:
        windows: Of the training text, `context` characters each; seen `epochs` times.
        rate: The largest of AdamW's.
    """

    windows: int
    context: int = 256
    epochs: int = 1
    batch: int = 32
    rate: float = 2e-3
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Kind = "float32"
    asked: int = 64

    @property
    def tokens(self) -> int:
        return self.windows * self.context * self.epochs


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What became of a model.

    Args:
        perplexity: Of characters in documents kept apart; infinite where training stopped.
        largest_potential, largest_feature: |v| before its clamp and |Re G|, |Im G| before theirs, on what is asked.
        failed: Why training stopped; empty where it did not.
    """

    model: str
    parameters: int
    tokens: int
    rate: float
    seed: int
    perplexity: float
    train_s: float
    largest_potential: float | None = None
    largest_feature: float | None = None
    failed: str = ""


def compare(
    config: resnet_bk.Config, lesson: Lesson, variants: Mapping[str, Mapping[str, object]]
) -> Iterator[Learned]:
    """The transformer, then ResNet-BK as each variant changes `config`."""
    base = config.model_copy(update={"vocabulary": len(characters.ALPHABET), "context": lesson.context,
                                     "seed": lesson.seed})  # fmt: skip
    yield _learned("transformer", transformer.build(transformer.like(base)), lesson)
    for name, changes in variants.items():
        yield _learned(name, resnet_bk.build(resnet_bk.Config(**{**base.model_dump(), **changes})), lesson)


def without_clamps(config: resnet_bk.Config, lesson: Lesson) -> Iterator[Learned]:
    """ResNet-BK with both stability settings, with one and with none."""
    base = config.model_copy(update={"vocabulary": len(characters.ALPHABET), "context": lesson.context,
                                     "seed": lesson.seed})  # fmt: skip
    for name, changes in _CLAMPS.items():
        yield _learned(name, resnet_bk.build(base.model_copy(update=changes)), lesson)


def _learned(name: str, model: nn.Module, lesson: Lesson) -> Learned:
    settings = Settings(batch=lesson.batch, weight_decay=0.1, patience=0, held_out=0.0, amp=lesson.precision,
                        device=lesson.device)  # fmt: skip
    data = _part("training", lesson.context, lesson.windows)
    fit = Trainer(data=data, inputs=("characters",), settings=settings, seed=lesson.seed, progress=_say)
    parameters = sum(p.numel() for p in model.parameters())
    started = time.perf_counter()
    failed = ""
    try:
        model = fit(model, next_character_loss, step=name, epochs=lesson.epochs, rate=lesson.rate)
    except ToolkitError as error:
        failed = error.problem
    taken = time.perf_counter() - started
    asked = _part("asked", lesson.context, lesson.asked)
    perplexity, largest = (float("inf"), None) if failed else _asked(model, asked, torch.device(lesson.device))
    return Learned(model=name, parameters=parameters, tokens=len(data) * lesson.context * lesson.epochs,
                   rate=lesson.rate, seed=lesson.seed, perplexity=perplexity, train_s=taken, failed=failed,
                   largest_potential=None if largest is None else largest.potential,
                   largest_feature=None if largest is None else largest.feature)  # fmt: skip


def _part(part: str, context: int, most: int) -> Dataset:
    """Windows from all over a part of the text."""
    data = characters.windows(part, context=context)
    assert data.labels is not None
    ids = torch.cat([torch.from_numpy(sample["characters"]) for sample in data]).numpy()
    chosen = torch.linspace(0, len(ids) - 1, min(most, len(ids))).long().numpy()
    return Dataset.of_arrays(f"{data.name}, {len(chosen)} windows", {"characters": ids[chosen]}, data.labels[chosen])


def next_character_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Of either model, in nats; resnet_bk's holds the terms of its objective as well."""
    inputs, labels = batch
    assert labels is not None
    (ids,) = inputs.values()
    if isinstance(model, resnet_bk.ResNetBK):
        return next_id(model, ids, labels)
    return cross_entropy(model(ids).flatten(0, 1).float(), labels.flatten())


class _Largest:
    """Watches the chains of a model while it runs."""

    def __init__(self, model: nn.Module) -> None:
        self.potential = self.feature = 0.0
        for chain in model.modules():
            if isinstance(chain, Chain):
                chain.potential.register_forward_hook(self._potential)
                chain.watch = self._feature

    def _potential(self, _layer: nn.Module, _inputs: object, v: Tensor) -> None:
        self.potential = max(self.potential, float(v.abs().max()))

    def _feature(self, found: Tensor) -> None:
        self.feature = max(self.feature, float(found.abs().max()))


def _asked(model: nn.Module, data: Dataset, device: torch.device) -> tuple[float, _Largest | None]:
    watched = _Largest(model) if isinstance(model, resnet_bk.ResNetBK) else None
    model = model.to(device).eval()
    assert data.labels is not None
    nats = []
    with torch.no_grad():
        for sample, labels in zip(data, data.labels, strict=True):
            logits = model(torch.from_numpy(sample["characters"]).to(device)).float()
            nats.append(float(cross_entropy(logits[0], torch.from_numpy(labels).to(device))))
    mean = sum(nats) / len(nats)
    return exp(mean) if isfinite(mean) else float("inf"), watched


def _say(step: str, done: float) -> None:
    if int(done * 100) % 10 == 0:
        print(f"{step}: {done:.0%}", file=sys.stderr, flush=True)
