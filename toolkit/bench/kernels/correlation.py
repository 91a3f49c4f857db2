"""Correlations beside torch's own, and beside the plain product of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from kernels.correlation import correlation, row_correlation
from kernels.correlation.columns import reference as columns_reference
from kernels.correlation.rows import reference as rows_reference
from toolkit.bench.kernels.case import Case, Ways

__all__ = ["cases"]

_OF_THE_PRODUCT = {"x.T @ x": 0.8}


def cases() -> Iterator[Case]:
    for kind, rows, n in (
        ("cuda", 2**20, 64),
        ("cuda", 65_536, 1024),
        ("cpu", 4096, 1024),
    ):
        yield Case(
            operator="row_correlation",
            shape=f"({rows}, {n}) fp32",
            kind=kind,
            prepare=partial(_rows, rows, n),
            bytes_moved=4 * (2 * rows * n + rows),
        )
    for rows, width in ((65_536, 512), (65_536, 1024), (16_384, 2048), (16_384, 4096)):
        yield _columns_case("cuda", rows, width, torch.bfloat16)
    for rows, width in ((65_536, 512), (65_536, 1024), (16_384, 2048)):
        yield _columns_case("cuda", rows, width, torch.float32)
    for rows, width in ((16_384, 64), (8192, 512)):
        yield _columns_case("cpu", rows, width, torch.float32)


def _columns_case(kind: str, rows: int, width: int, dtype: torch.dtype) -> Case:
    """By symmetry half the product is enough: that, in plain arithmetic, is the floor."""
    name = {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
    return Case(
        operator="correlation",
        shape=f"({rows}, {width}) {name}",
        kind=kind,
        prepare=partial(_columns, rows, width, dtype),
        flop=rows * width * (width + 1),
        bytes_moved=dtype.itemsize * (rows * width + width**2),
        peak=name,
        goals=_OF_THE_PRODUCT if kind == "cuda" else {},
    )


def _rows(rows: int, n: int, device: torch.device) -> Ways:
    x, y = torch.randn(2, rows, n, device=device, generator=torch.Generator(device).manual_seed(0))
    few, others = x[:64], y[:64]
    return Ways(
        ours=lambda: row_correlation(x, y),
        error=lambda: _error(rows_reference.row_correlation, row_correlation, few, others),
        peers={"torch": lambda: rows_reference.row_correlation(x, y)},
    )


def _columns(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> Ways:
    rng = torch.Generator(device).manual_seed(0)
    x = (torch.randn(rows, width, device=device, generator=rng) + 2).to(dtype)
    return Ways(
        ours=lambda: correlation(x),
        error=lambda: _error(columns_reference.correlation, correlation, x),
        peers={"x.T @ x": lambda: x.T @ x, "torch": lambda: columns_reference.correlation(x)},
    )


def _error(plain: Callable[..., Tensor], ours: Callable[..., Tensor], *inputs: Tensor) -> tuple[float, float]:
    """Ours against float64, and STYLE.md's rule: twice plain torch's, and one rounding."""
    truth = plain(*(x.double() for x in inputs))
    off, allowed = ((f(*inputs).double() - truth).abs().max().item() for f in (ours, plain))
    return off, 2 * allowed + torch.finfo(inputs[0].dtype).eps
