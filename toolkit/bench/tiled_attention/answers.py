"""What networks answer in a task that asks for what was said before.

Those with tiles are trained dense and deployed with fewer and fewer of them, without training again; the peers are
trained as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby, product
from multiprocessing import get_context
from operator import attrgetter

import numpy as np
from torch import Tensor, nn

from passes.dataset import UNASKED, Dataset
from toolkit.bench.tiled_attention.learning import Device, deployed, logits, mean_interval, trained
from toolkit.bench.tiled_attention.peers import PEERS, peer
from toolkit.bench.tiled_attention.tasks import TASKS
from toolkit.geometry.neural.attention import QuantumGeometricAttention
from toolkit.models import geometric, transformer

__all__ = ["Answered", "answered"]

_ASKED = 512
_HIDDEN = 256
_MEASURED = 16


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What one way of attention answers, over all seeds.

    Args:
        way: A score that tiles are chosen by, or a peer.
        refine, tiles: R of T; 0 of T where attention is as it was trained.
        choose_by: Whose wishes decide which tiles are refined.
        right: Share of right answers, the mean of the seeds, with its 95 % interval.
        kept: `right` in parts of the same network's as it was trained, 1 where that gets nothing right; likewise.
        flops_ratio: Scoring and mixing with tiles over dense, from the formula.
        promised, error: How far an answer may be off by its certificate, the mean, and how far the worst was of those
            that were answered exactly as well; in parts of the values' diameter, means over seeds.
        each: `right` of each seed.
    """

    way: str
    refine: int
    tiles: int
    choose_by: str
    seeds: int
    right: float
    right_interval: tuple[float, float] | None
    kept: float
    kept_interval: tuple[float, float] | None
    flops_ratio: float | None
    promised: float | None
    error: float | None
    parameters: int
    each: tuple[float, ...]


@dataclass(frozen=True)
class _Answer:
    way: str
    refine: int
    choose_by: str
    right: float
    kept: float
    parameters: int
    cost: tuple[float, float, float] | None = None
    """Ratio of FLOPs, certificate, error."""


def answered(
    task: str, scores: Sequence[str], seeds: int, *, workers: int = 1, device: Device = "cpu"
) -> Iterator[Answered]:
    """The peers, and each score as it was trained and with fewer tiles.

    Args:
        task: Of `TASKS`.
        workers: Processes that train at the same time, of a seed each.
    """
    asked = [(task, (*scores, *PEERS), seed, device) for seed in range(seeds)]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(_of_seed, *zip(*asked, strict=True)))
    else:
        found = [_of_seed(*each) for each in asked]
    where = attrgetter("way", "refine", "choose_by")
    for (way, refine, choose_by), rows in groupby(sorted((x for each in found for x in each), key=where), key=where):
        answers = list(rows)
        right, kept = [x.right for x in answers], [x.kept for x in answers]
        costs = [x.cost for x in answers if x.cost is not None]
        ratio, promised, error = np.mean(costs, axis=0).tolist() if costs else (None, None, None)
        yield Answered(
            way=way, refine=refine, tiles=TASKS[task].tiles, choose_by=choose_by, seeds=len(answers),
            right=float(np.mean(right)), right_interval=mean_interval(right), kept=float(np.mean(kept)),
            kept_interval=mean_interval(kept), flops_ratio=ratio, promised=promised, error=error,
            parameters=answers[0].parameters, each=tuple(right),
        )  # fmt: skip


def _of_seed(name: str, ways: Sequence[str], seed: int, device: Device) -> list[_Answer]:
    """All ways learn from the same samples, and are asked the same."""
    task = TASKS[name]
    taught, asked = task.data(name, task.steps * task.batch, seed, "training"), task.data(name, _ASKED, seed, "asked")
    return [answer for way in ways for answer in _answers(name, way, seed, taught, asked, device)]


def _answers(name: str, way: str, seed: int, taught: Dataset, asked: Dataset, device: Device) -> Iterator[_Answer]:
    """Of one network: as it was trained, and with tiles where it has them."""
    task = TASKS[name]
    sizes = {"vocabulary": task.vocabulary, "context": task.length, "hidden": _HIDDEN, "seed": seed}
    config = geometric.Config.model_validate(
        sizes | {"tile": task.tile, "plan": "dense", "score": "dot" if way in PEERS else way}
    )
    made = peer(way, transformer.Config.model_validate(sizes), task.tile) if way in PEERS else geometric.build(config)
    network = trained(made, taught, f"{name} {way} {seed}", seed=seed, batch=task.batch, epochs=1, rate=task.rate,
                      device=device)  # fmt: skip
    parameters, dense = sum(p.numel() for p in network.parameters()), _right(network, asked, device)
    yield _Answer(way, 0, "", dense, 1.0, parameters)
    if way in PEERS or way == "born":
        return
    for choose_by, refine in product(("own", "earlier"), _refined(task.tiles)):
        tiled = deployed(network, config, refine, choose_by)
        right = _right(tiled, asked, device)
        kept = right / dense if dense else 1.0
        yield _Answer(way, refine, choose_by, right, kept, parameters, _cost(tiled, asked))


def _refined(tiles: int) -> list[int]:
    """R to try: all up to ten, then powers of 2."""
    return [r for r in range(1, tiles + 1) if tiles <= 10 or r.bit_count() == 1]


def _right(network: nn.Module, data: Dataset, device: Device) -> float:
    found, labels = logits(network, data, device)
    asked = labels != UNASKED
    return float((found.argmax(-1) == labels)[asked].float().mean())


def _cost(network: nn.Module, data: Dataset) -> tuple[float, float, float]:
    """Ratio of FLOPs, mean certificate and largest error of all blocks, on some samples."""
    found: list[dict[str, float]] = []

    def asked(attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(attention, QuantumGeometricAttention)
        found.append(attention.forward(*inputs, return_metrics=True)[1])  # type: ignore[arg-type]

    hooks = [block.attention.register_forward_pre_hook(asked) for block in network.blocks]  # type: ignore[union-attr]
    logits(network, data.take(_MEASURED))
    for hook in hooks:
        hook.remove()
    each = [[row[name] for row in found] for name in ("flops_ratio", "mass_bound_mean", "audit_error")]
    return float(np.mean(each[0])), float(np.mean(each[1])), max(each[2])
