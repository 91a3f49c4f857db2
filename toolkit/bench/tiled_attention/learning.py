"""What the tasks share: a network is trained dense, and deployed with fewer tiles and the same weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from passes.context import Batch
from passes.dataset import UNASKED, Dataset
from toolkit.cache import cache_folder
from toolkit.models import geometric
from toolkit.training.trainer import Settings, Trainer

__all__ = ["Device", "deployed", "logits", "mean_interval", "trained"]

Device = Literal["cpu", "cuda"]

_AT_ONCE = 16


def trained(
    model: nn.Module, data: Dataset, step: str, *, seed: int, batch: int, epochs: int, rate: float,
    validation: Dataset | None = None, device: Device = "cpu",
) -> nn.Module:  # fmt: skip
    """In eval mode, from the cache folder where it was trained before; at its best epoch where `validation` judges."""
    settings = Settings(batch=batch, weight_decay=0.1, patience=0, held_out=0.0, device=device, amp="float32")
    fit = Trainer(data=data, validation=validation, inputs=("characters",), settings=settings, seed=seed,
                  folder=cache_folder(), progress=_say)  # fmt: skip
    return fit(model, _next, step=f"tiled attention {step}", epochs=epochs, rate=rate).eval()


def _next(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    assert labels is not None
    return cross_entropy(model(*inputs.values()).flatten(0, 1), labels.flatten(), ignore_index=UNASKED)


def deployed(
    network: nn.Module, config: geometric.Config, refine: int, choose_by: str = "earlier", *, near: int = 0
) -> nn.Module:
    """The same weights with `refine` tiles, `near` of which are those just before the own."""
    update = {"plan": "topk", "refine": refine, "choose_by": choose_by, "near": near}
    made = geometric.build(config.model_copy(update=update))
    made.load_state_dict(network.state_dict())
    return made


def logits(network: nn.Module, data: Dataset, device: Device = "cpu") -> tuple[Tensor, Tensor]:
    """Of all samples, and their labels."""
    assert data.labels is not None
    ids = torch.from_numpy(np.concatenate([sample["characters"] for sample in data])).to(device)
    network = network.to(device)
    with torch.no_grad():
        found = torch.cat([network(some).cpu() for some in torch.split(ids, _AT_ONCE)])
    network.cpu()
    return found, torch.from_numpy(data.labels)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % of the mean, by Student's t; of one value there is none."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def _say(step: str, done: float) -> None:
    if int(done * 100) % 25 == 0:
        print(f"{step}: {done:.0%}", file=sys.stderr, flush=True)
