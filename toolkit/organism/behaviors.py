"""How components attend, in numbers that an archive can sort by: measured on one fixed probe, so that they compare.

Nothing here stores a matrix of queries by keys: the statistics come out of the attention's own pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from toolkit.errors import DescriptorError
from toolkit.organism.attending import Sight, check_inputs, combined_heads
from toolkit.organism.organism import Organism
from toolkit.organism.pseudopod import Pseudopod
from toolkit.rng import torch_generator

__all__ = ["AXES", "Axis", "GradientShares", "compute_intensity", "measure_behaviors", "probe_batch"]

Floats = NDArray[np.float64]


class Axis(NamedTuple):
    """One measure of a behaviour; `unit` "1" is a share."""

    name: str
    unit: str
    low: float
    high: float


AXES = (
    Axis("attention_span", "1", 0.0, 1.0),
    Axis("activation_sparsity", "1", 0.0, 1.0),
    Axis("gradient_share", "1", 0.0, 1.0),
    Axis("access_locality", "1", 0.0, 1.0),
)
"""attention_span: mean distance of query and key over the longest there is. activation_sparsity: share of outputs
within a tenth of their root mean square. gradient_share: of all squared gradient norms, its own, in a running mean.
access_locality: 1 less the width of the attention over that of an even one. Compute intensity is no axis: components
of one species all have the same (`compute_intensity` is for pools of several)."""


def probe_batch(d_model: int, *, length: int, batch: int = 4, seed: int = 0) -> Tensor:
    """(batch, length, d_model) of unit normal numbers: what behaviours are measured on where no data are at hand."""
    return torch.randn(batch, length, d_model, generator=torch_generator(seed, "probe", length, batch))


@torch.no_grad()
def measure_behaviors(
    organism: Organism, probe: Tensor, *, shares: Mapping[str, float] | None = None, causal: bool = False
) -> dict[str, Floats]:
    """Raw measures (m,) in the order of AXES, by id; each component remembers its own.

    Args:
        probe: (B, M, D), M at least 2; the same at each call. The organism's norm is applied to it.
        shares: Gradient share by id; 0 where one is not given.

    Raises:
        DescriptorError: a measure is not finite, which a diverged component causes, or M is 1.
        ShapeError: the probe is of another width.
    """
    check_inputs(probe, probe, organism.d_model)
    if probe.shape[1] < 2:
        raise DescriptorError("a probe of one position has no distances", hint="probe with two positions or more")
    h = probe if organism.norm is None else organism.norm(probe)
    rows, outputs, pods = [], [], list(organism.pool)
    for pod in pods:
        row, heads = _measured(pod, h.to(pod.gate), causal)
        rows.append(row.to(probe.device))
        outputs.append(heads.flatten(0, 1))
    values = torch.stack(rows).double().cpu().numpy() if rows else np.zeros((0, 3))  # one copy from the device
    found = {}
    for pod, kept, (span, sparsity, locality) in zip(pods, outputs, values, strict=True):
        share = (shares or {}).get(pod.component_id, 0.0)
        measures = np.array([span, sparsity, share, locality])
        if not np.isfinite(measures).all():
            raise DescriptorError(
                f"{pod.component_id} behaves as {dict(zip((a.name for a in AXES), measures.tolist(), strict=True))}",
                hint="its weights have diverged: let it go",
            )
        pod.remember(measures, kept)
        found[pod.component_id] = measures
    return found


def _measured(pod: Pseudopod, h: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """(span, sparsity, locality) on the device, and the outputs of its heads."""
    w, length = pod.matrices(), h.shape[1]
    heads, stats = combined_heads(h, h, w, pod.kernel, Sight(causal), return_stats=True)
    if stats is None:
        raise DescriptorError("no statistics were measured", hint="give components a kernel that returns them")
    written = F.linear(heads, w.out).float()
    rms = written.square().mean().sqrt()
    sparsity = torch.where(rms.isfinite(), (written.abs() < 0.1 * rms).float().mean(), torch.nan)
    span = (stats.span.mean() / (length - 1)).clamp(0, 1)
    widest = length / math.sqrt(12)
    locality = (1 - stats.position_var.clamp_min(0).sqrt().mean() / widest).clamp(0, 1)
    return torch.stack([span.float(), sparsity, locality.float()]), heads


class GradientShares:
    """Running means of each component's share of the squared gradient norm; bias-corrected, so constants are exact.

    Args:
        decay: Of the mean, in [0, 1).
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise DescriptorError(f"a decay of {decay}", hint="0 or more, below 1")
        self.decay = decay
        self._sums: dict[str, tuple[float, float]] = {}

    def update(self, organism: Organism) -> None:
        """Take in the gradients as they are now. They are read from the device in one copy."""
        pods = list(organism.pool)
        if not pods:
            return
        norms = torch.stack([_squared_norm(pod).to(pods[0].gate.device) for pod in pods]).double().cpu().numpy()
        total = float(norms.sum())
        shares = norms / total if math.isfinite(total) and total > 0 else np.zeros(len(pods))
        old = self._sums
        self._sums = {}
        for pod, share in zip(pods, shares.tolist(), strict=True):
            value, weight = old.get(pod.component_id, (0.0, 0.0))
            rate = 1 - self.decay
            self._sums[pod.component_id] = (self.decay * value + rate * share, self.decay * weight + rate)

    @property
    def values(self) -> dict[str, float]:
        """By id, of those that lived at the last update."""
        return {name: value / weight for name, (value, weight) in self._sums.items()}


def _squared_norm(pod: Pseudopod) -> Tensor:
    parts = [p.grad.float().square().sum() for p in pod.parameters() if p.grad is not None]
    return torch.stack(parts).sum() if parts else torch.zeros((), device=pod.gate.device)


def compute_intensity(pod: Pseudopod, *, length: int, batch: int = 1) -> float:
    """log10 of flop per byte at a nominal shape: products of matrices and of attention, over weights and activations.

    Equal for all components of one species, so it says something of pools of several alone.
    """
    d_model, width = pod.d_model, pod.n_heads * pod.head_dim
    tokens = batch * length
    flop = 2 * tokens * 4 * d_model * width + 4 * tokens * length * width
    numbers = 4 * d_model * width + tokens * (2 * d_model + 4 * width)
    return math.log10(flop / (numbers * pod.gate.element_size()))
