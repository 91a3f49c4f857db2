"""Seconds and live bytes of the layer beside dense attention, unfused and fused, and what threads make of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.bench.bootstrap import interval, ratio_draws
from toolkit.geometry.neural.attention import QuantumGeometricAttention, ScoreName
from toolkit.geometry.runtime.memory import live_bytes
from toolkit.geometry.runtime.vectorization import threads, tune_threads
from toolkit.models.seeded import seeded
from toolkit.rng import torch_generator
from toolkit.timing import in_turns_s, spread_s

__all__ = ["Timed", "Used", "layers", "memory", "peaks", "thread_times", "times", "tokens", "unfused"]

_HIDDEN, _HEADS, _STATE = 64, 4, 16
_TILE, _REFINE = 64, 4
_FEWEST_UNFUSED, _FEWEST = 3, 30
_SCORES: tuple[ScoreName, ...] = ("dot", "metric", "fidelity", "hyperbolic", "born")


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One way of computing a layer's forward.

    Args:
        quartiles_s: Of its runs.
        unfused_ratio, sdpa_ratio: Time of dense attention over this one's, medians, with the 95 % interval of the
            bootstrap; above 1 this one is faster.
    """

    way: str
    causal: bool
    length: int
    seconds: float
    quartiles_s: tuple[float, float]
    unfused_ratio: float | None
    unfused_interval: tuple[float, float] | None
    sdpa_ratio: float
    sdpa_interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Used:
    """Peak of the live bytes of a forward, and of a forward and backward; `under_dense` of unfused attention's."""

    way: str
    length: int
    forward_bytes: int
    training_bytes: int
    under_dense: float
    training_under_dense: float


class _Unfused(nn.Module):
    """The dense layer as it is written down in a paper: the matrix of scores, its softmax, the product."""

    def __init__(self, layer: QuantumGeometricAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer, (b, n, _) = self.layer, x.shape
        q, k, v = (p(x).view(b, n, layer.heads, -1).transpose(1, 2) for p in (layer.query, layer.key, layer.value))
        logits = q @ k.mT * q.shape[-1] ** -0.5
        if layer.causal:
            logits = logits.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
        mixed = torch.softmax(logits, -1) @ v
        answer: Tensor = layer.out(mixed.transpose(1, 2).flatten(2))
        return answer


class _Fused(_Unfused):
    """The same by torch's fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        layer, (b, n, _) = self.layer, x.shape
        q, k, v = (p(x).view(b, n, layer.heads, -1).transpose(1, 2) for p in (layer.query, layer.key, layer.value))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=layer.causal)
        answer: Tensor = layer.out(mixed.transpose(1, 2).flatten(2))
        return answer


def layers(causal: bool, *, refine: int = _REFINE) -> dict[str, nn.Module]:
    """Every way by name, all with hidden 64, 4 heads, states of 16 (8 of overlaps), tiles of 64."""
    made: dict[str, nn.Module] = {}
    for score in _SCORES:
        with seeded(0):
            made[f"tiled {score}"] = QuantumGeometricAttention(
                _HIDDEN, _HEADS, manifold_dim=_STATE // 2 if score in ("fidelity", "born") else _STATE,
                tile_size=_TILE, refine=refine, score=score, causal=causal,
            ).eval()  # fmt: skip
    dot = made["tiled dot"]
    assert isinstance(dot, QuantumGeometricAttention)
    return {"unfused": _Unfused(dot), "sdpa": _Fused(dot), **made}


def unfused(causal: bool = False) -> nn.Module:
    """Dense attention that holds its scores."""
    return layers(causal)["unfused"]


def tokens(length: int) -> Tensor:
    """(1, length, 64): a smooth path with noise, as the hidden states of a text are neither constant nor unrelated."""
    generator = torch_generator(0, "tokens", length)
    steps = torch.randn(1, length, _HIDDEN, generator=generator)
    walk = steps.cumsum(1) / torch.arange(1, length + 1).sqrt()[:, None]
    return 0.7 * walk + 0.7 * torch.randn(1, length, _HIDDEN, generator=generator)


def times(lengths: Sequence[int]) -> Iterator[Timed]:
    """All ways at each length, in turns, without gradients, on one thread.

    Unfused attention takes longer than all others together: it goes round with them a few times, and they go round more
    often without it, from which all figures come that are not its own.
    """
    for causal in (False, True):
        ways = layers(causal)
        for length in lengths:
            x = tokens(length)
            runs = {name: partial(way, x) for name, way in ways.items()}
            with torch.no_grad(), threads(1):
                beside = in_turns_s(runs, seconds=1.0, fewest=_FEWEST_UNFUSED)
                taken = in_turns_s(
                    {name: runs[name] for name in runs if name != "unfused"}, seconds=4.0, fewest=_FEWEST
                )
            for name, durations in beside.items():
                lower, middle, upper = spread_s(taken.get(name, durations))
                peer, own = (taken["sdpa"], taken[name]) if name in taken else (beside["sdpa"], durations)
                yield Timed(
                    way=name, causal=causal, length=length, seconds=middle, quartiles_s=(lower, upper),
                    unfused_ratio=float(np.median(beside["unfused"]) / np.median(durations)),
                    unfused_interval=interval(ratio_draws(beside["unfused"], durations)),
                    sdpa_ratio=float(np.median(peer) / np.median(own)), sdpa_interval=interval(ratio_draws(peer, own)),
                )  # fmt: skip


def memory(lengths: Sequence[int], names: Sequence[str] | None = None) -> Iterator[Used]:
    """Live bytes of every way at each length; the same in every run.

    Args:
        names: Of the ways, "unfused" first; all where None.
    """
    for length in lengths:
        x = tokens(length)
        base: tuple[int, int] | None = None
        made = layers(False)
        for name in names or made:
            way = made[name]
            used = peaks(way, x)
            base = base or used
            yield Used(way=name, length=length, forward_bytes=used[0], training_bytes=used[1],
                       under_dense=1 - used[0] / base[0], training_under_dense=1 - used[1] / base[1])  # fmt: skip


def peaks(way: nn.Module, x: Tensor) -> tuple[int, int]:
    """Bytes alive at most in a forward without gradients, and in a forward and backward."""
    with torch.no_grad(), live_bytes() as forward:
        way(x)
    with live_bytes() as training:
        way(x).sum().backward()
    way.zero_grad(set_to_none=True)
    return forward.peak, training.peak


def thread_times(length: int, counts: Sequence[int]) -> Iterator[dict[str, object]]:
    """The layer on each number of threads; `chosen` is the fewest that are near the best."""
    layer, x = layers(False)["tiled metric"], tokens(length)

    def durations(count: int) -> list[float]:
        with torch.no_grad(), threads(count):
            return in_turns_s({"layer": partial(layer, x)}, seconds=1.0, fewest=7)["layer"]

    report = tune_threads(durations, counts)
    for count, seconds in report.seconds.items():
        yield {"way": "tiled metric", "length": length, "threads": count, "seconds": seconds,
               "chosen": count == report.best}  # fmt: skip
