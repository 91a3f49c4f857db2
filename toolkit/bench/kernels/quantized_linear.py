"""Linear layers in int8 and int4 beside bfloat16's, which they replace."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from kernels.int4_linear import linear_int4, quantize_int4
from kernels.int4_linear import reference as int4
from kernels.int8_linear import linear_w8a8, quantize_rows
from kernels.int8_linear import reference as int8
from toolkit.bench.kernels.case import Case, Ways

__all__ = ["cases"]

_CHECKED = 64
"""Rows whose answer is held against float64."""


def cases() -> Iterator[Case]:
    for kind, size in (("cuda", 4096), ("cpu", 1024)):
        goals = {"bf16": 1.2} if kind == "cuda" else {}
        for name, prepare, x_bytes in (("x in int8", _w8a8, 1), ("x in bf16", _dynamic, 2)):
            yield Case(
                operator="linear_w8a8",
                shape=f"({size}, {size}, {size}) {name}",
                kind=kind,
                prepare=partial(prepare, size),
                flop=2.0 * size**3,
                bytes_moved=size**2 * (x_bytes + 1 + 2) + 4 * size,
                peak="int8",
                goals=goals,
            )
    for outs, inputs in ((4096, 4096), (14336, 4096), (4096, 14336)):
        for rows in (1, 16):
            yield _int4_case("cuda", rows, inputs, outs)
    yield _int4_case("cpu", 1, 4096, 4096)


def _int4_case(kind: str, rows: int, inputs: int, outs: int) -> Case:
    return Case(
        operator="linear_int4",
        shape=f"{rows} row{'s' * (rows > 1)}, in {inputs}, out {outs}, bf16",
        kind=kind,
        prepare=partial(_int4, rows, inputs, outs),
        flop=2.0 * rows * inputs * outs,
        bytes_moved=outs * inputs // 2 + 4 * outs * inputs // 128 + 2 * rows * (inputs + outs),
        goals={"bf16": 2.0} if kind == "cuda" else {},
    )


def _normal(*shapes: tuple[int, ...], device: torch.device) -> list[Tensor]:
    rng = torch.Generator(device).manual_seed(0)
    return [torch.randn(shape, device=device, generator=rng) for shape in shapes]


def _w8a8(size: int, device: torch.device) -> Ways:
    """x is quantized already, as where one layer's int8 serves several others; gelu and bias behind the product."""
    x, w, bias = _normal((size, size), (size, size), (size,), device=device)
    (xq, x_scale), (wq, w_scale) = quantize_rows(x), quantize_rows(w)
    xb, wb, bb = (t.to(torch.bfloat16) for t in (x, w, bias))

    def ours(x: Tensor = xq, scale: Tensor = x_scale) -> Tensor:
        return linear_w8a8(x, wq, w_scale, scale, bias, activation="gelu", dtype=torch.bfloat16)

    def separate() -> Tensor:
        out = torch._int_mm(xq, wq.t())  # has no public name in torch
        return gelu(out * x_scale[:, None] * w_scale + bias).to(torch.bfloat16)

    def error() -> tuple[float, float]:
        few = (xq[:_CHECKED], x_scale[:_CHECKED], wq, w_scale, bias, "gelu")
        return _errors(ours(*few[:2]), int8.linear_w8a8(*few, torch.bfloat16), int8.linear_w8a8(*few, torch.float64))

    return Ways(ours=ours, error=error, peers={"bf16": lambda: gelu(linear(xb, wb, bb)), "int8 by steps": separate})


def _dynamic(size: int, device: torch.device) -> Ways:
    """x is bfloat16 and quantized row by row on the way, which is part of the time."""
    x, w = _normal((size, size), (size, size), device=device)
    wq, w_scale = quantize_rows(w)
    xb, wb = x.to(torch.bfloat16), w.to(torch.bfloat16)

    def error() -> tuple[float, float]:
        few = (*int8.quantize_rows(xb[:_CHECKED]), wq, w_scale, None, "none")
        ours = linear_w8a8(xb[:_CHECKED], wq, w_scale)
        return _errors(ours, int8.linear_w8a8(*few, torch.bfloat16), int8.linear_w8a8(*few, torch.float64))

    return Ways(ours=lambda: linear_w8a8(xb, wq, w_scale), error=error, peers={"bf16": lambda: linear(xb, wb)})


def _int4(rows: int, inputs: int, outs: int, device: torch.device) -> Ways:
    x, w = _normal((rows, inputs), (outs, inputs), device=device)
    packed, scale, _ = quantize_int4(w)
    xb, wb = x.to(torch.bfloat16), w.to(torch.bfloat16)

    def error() -> tuple[float, float]:
        plain = int4.linear_int4(xb, packed, scale, None, None)
        truth = int4.linear_int4(xb.double(), packed, scale, None, None)
        return _errors(linear_int4(xb, packed, scale), plain, truth)

    return Ways(ours=lambda: linear_int4(xb, packed, scale), error=error, peers={"bf16": lambda: linear(xb, wb)})


def _errors(ours: Tensor, plain: Tensor, truth: Tensor) -> tuple[float, float]:
    """Ours, and what is allowed: twice plain torch's, and one rounding."""
    rounding = torch.finfo(ours.dtype).eps * truth.abs().max().item()
    return (ours.double() - truth).abs().max().item(), 2 * (plain.double() - truth).abs().max().item() + rounding
