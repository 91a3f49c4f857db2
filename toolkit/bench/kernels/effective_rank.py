"""Effective ranks beside torch's singular values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from kernels.effective_rank import KINDS, Kind, effective_rank, estimate_effective_rank, reference
from toolkit.bench.kernels.case import Case, Ways

__all__ = ["cases"]

ALLOWED_ERROR = 0.01
"""Relative."""


def cases() -> Iterator[Case]:
    for device, batch, n in (("cuda", 64, 1024), ("cpu", 4, 256)):
        for kind in KINDS:
            yield Case(
                operator="effective_rank",
                shape=f"({batch}, {n}, {n}) fp32 {kind}",
                kind=device,
                prepare=partial(_ways, batch, n, kind),
                flop=batch * n**2 * (n + 1),  # of the Gram matrix
                bytes_moved=4 * batch * (n * n + 1),
                peak="fp32",
                goals={"svdvals": 5} if device == "cuda" else {},
            )
    yield Case(
        operator="effective_rank estimate",
        shape="(8192, 8192) fp32 entropy",
        kind="cuda",
        prepare=partial(_estimated, 8192, "entropy"),
        bytes_moved=4 * 8192**2,
    )


def _ways(batch: int, n: int, kind: Kind, device: torch.device) -> Ways:
    """Of falling spectra, one a hundredfold steeper than the next, as weights have them."""
    rng = torch.Generator(device).manual_seed(0)
    falling = torch.logspace(0, -4, n, device=device) ** torch.linspace(0, 1, batch, device=device)[:, None]
    w = torch.randn(batch, n, n, device=device, generator=rng) * falling[:, None, :]

    def error() -> tuple[float, float]:
        few = w[:: max(1, batch // 4)]
        truth = reference.effective_rank(few.double(), kind)
        return ((effective_rank(few, kind=kind) - truth) / truth).abs().max().item(), ALLOWED_ERROR

    return Ways(
        ours=lambda: effective_rank(w, kind=kind), error=error, peers={"svdvals": lambda: torch.linalg.svdvals(w)}
    )


def _estimated(n: int, kind: Kind, device: torch.device) -> Ways:
    """Beside what it estimates; the error that is allowed is the one that it states."""
    rng = torch.Generator(device).manual_seed(0)
    w = torch.randn(n, n, device=device, generator=rng) * torch.arange(1, n + 1, device=device) ** -0.5

    def error() -> tuple[float, float]:
        found, truth = estimate_effective_rank(w, kind=kind, generator=rng), effective_rank(w, kind=kind).double()
        return ((found.value - truth) / truth).abs().item(), (found.error / truth).item() + ALLOWED_ERROR

    return Ways(
        ours=lambda: estimate_effective_rank(w, kind=kind, generator=rng),
        error=error,
        peers={"effective_rank": lambda: effective_rank(w, kind=kind)},
    )
