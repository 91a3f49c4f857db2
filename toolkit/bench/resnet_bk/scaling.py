"""Seconds and bytes a token against the length, the number of tokens in a step being the same throughout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit.models import resnet_bk, transformer
from toolkit.training.precision import Kind

__all__ = ["Measured", "measure"]

_FEWEST, _MOST, _LONG_S = 3, 11, 1.0
"""Runs of each; no more than the fewest where these take as long."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model at one length.

    Args:
        forward_s, step_s: A token's share of a forward without gradients, and of forward and backward together.
        peak_bytes: Of the training step above the weights; None where the device does not tell.
        failed: Why there are no figures; empty where there are.
    """

    model: str
    device: str
    precision: str
    length: int
    batch: int
    forward_s: float = 0.0
    step_s: float = 0.0
    peak_bytes: int | None = None
    failed: str = ""


def measure(
    config: resnet_bk.Config, lengths: Sequence[int], *, tokens: int, device: torch.device, precision: Kind
) -> Iterator[Measured]:
    """ResNet-BK, then the transformer of as many parameters, at each length; both without position tables.

    Args:
        tokens: In each step; a batch holds as many sequences as make them up, at least one.
    """
    endless = config.model_copy(update={"positions": "none", "context": max(lengths)})
    models: dict[str, Callable[[], nn.Module]] = {
        "resnet_bk": lambda: resnet_bk.build(endless),
        "transformer": lambda: transformer.build(transformer.like(endless)),
    }
    for name, make in models.items():
        model = make().to(device)
        for length in lengths:
            batch = max(tokens // length, 1)
            about = {"model": name, "device": _name(device), "precision": precision, "length": length, "batch": batch}
            try:
                yield Measured(**about, **_figures(model, config.vocabulary, batch, length, device, precision))  # type: ignore[arg-type]
            except (torch.cuda.OutOfMemoryError, MemoryError) as error:
                yield Measured(**about, failed=f"out of memory ({type(error).__name__})")  # type: ignore[arg-type]


def _figures(
    model: nn.Module, vocabulary: int, batch: int, length: int, device: torch.device, precision: Kind
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (batch, length), generator=generator).to(device)
    labels = torch.randint(vocabulary, (batch, length), generator=generator).to(device)

    def forward() -> Tensor:
        with torch.no_grad(), _computing(device, precision):
            logits: Tensor = model(ids)
            return logits

    def step() -> None:
        with _computing(device, precision):
            loss = cross_entropy(model(ids).flatten(0, 1).float(), labels.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    forward_s = _seconds(forward, device)
    peak, step_s = _peak_bytes(step, device), _seconds(step, device)
    return {"forward_s": forward_s / ids.numel(), "step_s": step_s / ids.numel(), "peak_bytes": peak}


def _computing(device: torch.device, precision: Kind) -> Any:
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """The median of some runs after one that warms up."""
    taken: list[float] = []
    run()
    while len(taken) < _FEWEST or (len(taken) < _MOST and sum(taken) < _LONG_S):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        taken.append(time.perf_counter() - started)
    return median(taken)


def _peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    if device.type != "cuda":
        run()
        return None
    run()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, 1 thread"
