"""Correlations beside torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from kernels.correlation import reference, row_correlation
from toolkit.bench.kernels.case import Case, Ways

__all__ = ["cases"]


def cases() -> Iterator[Case]:
    for kind, rows, n in (("cuda", 65_536, 1024), ("cpu", 4096, 1024)):
        yield Case(
            operator="row_correlation",
            shape=f"({rows}, {n}) fp32",
            kind=kind,
            prepare=partial(_rows, rows, n),
            bytes_moved=4 * (2 * rows * n + rows),
        )


def _rows(rows: int, n: int, device: torch.device) -> Ways:
    x, y = torch.randn(2, rows, n, device=device, generator=torch.Generator(device).manual_seed(0))

    def error() -> tuple[float, float]:
        few, others = x[:64], y[:64]
        truth = reference.row_correlation(few.double(), others.double())
        ours, plain = (f(few, others).double() - truth for f in (row_correlation, reference.row_correlation))
        return ours.abs().max().item(), 2 * plain.abs().max().item() + torch.finfo(x.dtype).eps

    return Ways(
        ours=lambda: row_correlation(x, y), error=error, peers={"torch": lambda: reference.row_correlation(x, y)}
    )
