"""Train dense, deploy tiled: what is left of a network's accuracy with fewer and fewer tiles, without training again.

`recall`: 8 pairs of a key and a value, then keys whose values are asked for (multi-query associative recall, Arora et
al. 2023, arXiv:2312.04927). `characters`: perplexity on Python's own documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from passes.context import Batch
from passes.dataset import Array, Dataset
from toolkit.bench import characters
from toolkit.cache import cache_folder
from toolkit.models import geometric, transformer
from toolkit.rng import numpy_generator
from toolkit.training.trainer import Settings, Trainer

__all__ = ["Learned", "learned_characters", "learned_recall", "recall_data"]

_LENGTH, _PAIRS, _KEYS = 40, 8, 20
_UNASKED = -100
_STEPS, _BATCH, _RATE = 2000, 32, 3e-3
_ASKED = 512
_CONTEXT, _TILE, _WINDOWS, _JUDGED = 256, 16, 4000, 96


@dataclass(frozen=True, kw_only=True)
class Learned:
    """One network in one plan.

    Args:
        refine, tiles: R of T; both 0 where attention is dense.
        choose_by: Whose wishes decide which tiles are refined.
        figure: Share of right answers, or perplexity.
        kept: `figure` in parts of the same network's dense one; of perplexity, dense over tiled.
    """

    task: str
    score: str
    plan: str
    refine: int
    tiles: int
    choose_by: str
    seed: int
    figure: float
    kept: float


def recall_data(count: int, seed: int, part: str) -> Dataset:
    """Sequences (n, 40) of `_PAIRS` pairs and then keys, labelled with the values of these; the rest is not asked."""
    draw = numpy_generator(seed, "recall", part)
    keys = draw.permuted(np.tile(np.arange(_KEYS), (count, 1)), axis=1)[:, :_PAIRS]
    values = draw.integers(_KEYS, 2 * _KEYS, (count, _PAIRS))
    asked = draw.integers(0, _PAIRS, (count, _LENGTH - 2 * _PAIRS))
    pairs = np.stack([keys, values], 2).reshape(count, -1)
    ids = np.concatenate([pairs, np.take_along_axis(keys, asked, 1)], 1)
    labels = np.concatenate([np.full_like(pairs, _UNASKED), np.take_along_axis(values, asked, 1)], 1)
    return Dataset.of_arrays(f"recall, {part}, seed {seed}", {"characters": ids}, labels)


def learned_recall(scores: Sequence[str], seeds: Sequence[int]) -> Iterator[Learned]:
    """SDPA and each score dense, then each score with 1, 2, 3 ... tiles of 4 tokens."""
    for seed in seeds:
        data, asked = recall_data(_STEPS * _BATCH, seed, "training"), recall_data(_ASKED, seed, "asked")
        peer = transformer.Config(vocabulary=2 * _KEYS, context=_LENGTH, hidden=256, seed=seed)
        network = _trained(transformer.build(peer), data, f"recall sdpa {seed}", seed)
        yield _dense("recall", "sdpa", seed, _right(network, asked))
        for score in scores:
            config = geometric.Config.model_validate({
                "vocabulary": 2 * _KEYS, "context": _LENGTH, "tile": 4, "score": score, "plan": "dense", "seed": seed,
            })  # fmt: skip
            network = _trained(geometric.build(config), data, f"recall {score} {seed}", seed)
            dense = _right(network, asked)
            yield _dense("recall", score, seed, dense)
            if score == "born":
                continue
            for choose_by in ("own", "earlier"):
                for refine in range(1, _LENGTH // config.tile + 1):
                    figure = _right(_tiled(network, config, refine, choose_by), asked)
                    yield _row("recall", score, seed, refine, _LENGTH // config.tile, choose_by, figure, figure / dense)


def learned_characters(scores: Sequence[str], seed: int = 0) -> Iterator[Learned]:
    """Perplexity of the same, with 16 tiles of 16 characters; a tile's choice is by what came before it."""
    data, asked = _windows("training", _WINDOWS), _windows("asked", _JUDGED)
    peer = transformer.Config(vocabulary=len(characters.ALPHABET), context=_CONTEXT, hidden=256, seed=seed)
    network = _trained(transformer.build(peer), data, "characters sdpa", seed, batch=8, epochs=2)
    yield _dense("characters", "sdpa", seed, _perplexity(network, asked))
    for score in scores:
        config = geometric.Config.model_validate({
            "vocabulary": len(characters.ALPHABET), "context": _CONTEXT, "tile": _TILE, "score": score, "plan": "dense",
            "seed": seed,
        })  # fmt: skip
        network = _trained(geometric.build(config), data, f"characters {score}", seed, batch=8, epochs=2)
        dense = _perplexity(network, asked)
        yield _dense("characters", score, seed, dense)
        if score == "born":
            continue
        tiles = _CONTEXT // config.tile
        for refine in (1, 2, 4, 8, tiles):
            figure = _perplexity(_tiled(network, config, refine, "earlier"), asked)
            yield _row("characters", score, seed, refine, tiles, "earlier", figure, dense / figure)


def _dense(task: str, score: str, seed: int, figure: float) -> Learned:
    return Learned(task=task, score=score, plan="dense", refine=0, tiles=0, choose_by="", seed=seed, figure=figure,
                   kept=1.0)  # fmt: skip


def _row(
    task: str, score: str, seed: int, refine: int, tiles: int, choose_by: str, figure: float, kept: float
) -> Learned:
    return Learned(task=task, score=score, plan="topk", refine=refine, tiles=tiles, choose_by=choose_by, seed=seed,
                   figure=figure, kept=kept)  # fmt: skip


def _trained(
    model: nn.Module, data: Dataset, step: str, seed: int, *, batch: int = _BATCH, epochs: int = 1
) -> nn.Module:
    settings = Settings(batch=batch, weight_decay=0.1, patience=0, held_out=0.0)
    fit = Trainer(data=data, inputs=("characters",), settings=settings, seed=seed, folder=cache_folder(), progress=_say)
    return fit(model, _next, step=f"tiled attention {step}", epochs=epochs, rate=_RATE).eval()


def _next(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    assert labels is not None
    return cross_entropy(model(*inputs.values()).flatten(0, 1), labels.flatten(), ignore_index=_UNASKED)


def _tiled(network: nn.Module, config: geometric.Config, refine: int, choose_by: str) -> nn.Module:
    """The same weights in the plan "topk"."""
    made = geometric.build(config.model_copy(update={"plan": "topk", "refine": refine, "choose_by": choose_by}))
    made.load_state_dict(network.state_dict())
    return made


def _logits(network: nn.Module, data: Dataset) -> tuple[Tensor, Tensor]:
    """Of all samples, and their labels."""
    assert data.labels is not None
    ids = torch.from_numpy(np.concatenate([sample["characters"] for sample in data]))
    with torch.no_grad():
        found = torch.cat([network(some) for some in torch.split(ids, 16)])  # type: ignore[no-untyped-call]
    return found, torch.from_numpy(data.labels)


def _right(network: nn.Module, data: Dataset) -> float:
    logits, labels = _logits(network, data)
    asked = labels != _UNASKED
    return float((logits.argmax(-1) == labels)[asked].float().mean())


def _perplexity(network: nn.Module, data: Dataset) -> float:
    logits, labels = _logits(network, data)
    return float(cross_entropy(logits.flatten(0, 1), labels.flatten()).exp())


def _windows(part: str, most: int) -> Dataset:
    """Windows from all over a part of the text."""
    data = characters.windows(part, context=_CONTEXT)
    assert data.labels is not None
    ids: Array = np.concatenate([sample["characters"] for sample in data])
    chosen = np.linspace(0, len(ids) - 1, min(most, len(ids))).astype(int)
    name = f"{data.name}, {len(chosen)} windows of {_CONTEXT}"
    return Dataset.of_arrays(name, {"characters": ids[chosen]}, data.labels[chosen])


def _say(step: str, done: float) -> None:
    if int(done * 100) % 25 == 0:
        print(f"{step}: {done:.0%}", file=sys.stderr, flush=True)
