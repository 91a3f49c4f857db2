"""Attention beside torch's backends, and its statistics beside those of the stored matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from kernels.attention import attention, reference
from toolkit.bench.kernels.case import Case, Way, Ways

__all__ = ["cases"]

_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
_SHAPES = ((4, 16, 4096, 64), (4, 16, 4096, 128), (2, 16, 16_384, 128))
_ON_CPU = (1, 8, 1024, 64)
_MATERIALISED = "stored matrix"
_CHECKED = 2048
"""Queries and keys of one head that are held against the stored matrix in float64."""


@dataclass(frozen=True)
class _Size:
    b: int
    h: int
    n: int
    d: int
    causal: bool

    @property
    def pairs(self) -> float:
        """Of a query and a key that it sees."""
        return self.b * self.h * self.n**2 / (2 if self.causal else 1)

    def bytes_moved(self, element: int, tensors: int) -> float:
        return tensors * element * self.b * self.h * self.n * self.d

    def __str__(self) -> str:
        return f"({self.b}, {self.h}, {self.n}, {self.d}) {'causal ' if self.causal else ''}"


def cases() -> Iterator[Case]:
    for shape in _SHAPES:
        for causal in (False, True) if shape[2] == 4096 else (False,):
            size = _Size(*shape, causal)
            yield _forward(size, "cuda", torch.bfloat16, _goals(size))
            yield _backward(size, "cuda", torch.bfloat16)
    for causal in (False, True):
        yield _forward(_Size(*_ON_CPU, causal), "cpu", torch.float32, {})
        yield _backward(_Size(*_ON_CPU, causal), "cpu", torch.float32)


def _goals(size: _Size) -> Mapping[str, float]:
    goals = {"flash": 0.9}
    if size.d == 128:
        goals["cuDNN"] = 0.7
    if size == _Size(*_SHAPES[0], False):
        goals[_MATERIALISED] = 35.0
    return goals


def _forward(size: _Size, kind: str, dtype: torch.dtype, goals: Mapping[str, float]) -> Case:
    """Ours with statistics; torch's without, but for the stored matrix."""
    return Case(
        operator="attention + statistics",
        shape=f"{size}{str(dtype).removeprefix('torch.')}",
        kind=kind,
        prepare=partial(_prepare_forward, size, dtype, kind == "cpu" or _MATERIALISED in goals),
        flop=4 * size.pairs * size.d,
        bytes_moved=size.bytes_moved(dtype.itemsize, 4),
        goals=goals,
    )


def _backward(size: _Size, kind: str, dtype: torch.dtype) -> Case:
    return Case(
        operator="attention backward",
        shape=f"{size}{str(dtype).removeprefix('torch.')}",
        kind=kind,
        prepare=partial(_prepare_backward, size, dtype),
        flop=10 * size.pairs * size.d,
        bytes_moved=size.bytes_moved(dtype.itemsize, 8),
        goals={"flash": 0.8} if kind == "cuda" else {},
    )


def _prepare_forward(size: _Size, dtype: torch.dtype, stored: bool, device: torch.device) -> Ways:
    q, k, v = _inputs(size, dtype, device)
    peers = _peers(device, lambda: scaled_dot_product_attention(q, k, v, is_causal=size.causal))
    if stored:
        peers[_MATERIALISED] = lambda: reference.attention(q, k, v, None, None, size.causal, None, size.d**-0.5, True)

    def error() -> tuple[float, float]:
        few = [x[:1, :1, :_CHECKED] for x in (q, k, v)]
        return _error([_with_statistics(few, size, cast) for cast in (None, torch.float64, dtype)])

    return Ways(ours=lambda: attention(q, k, v, causal=size.causal, return_stats=True), error=error, peers=peers)


def _prepare_backward(size: _Size, dtype: torch.dtype, device: torch.device) -> Ways:
    leaves = [x.requires_grad_() for x in _inputs(size, dtype, device)]
    dout = _inputs(size, dtype, device, seed=1)[0]
    out = attention(*leaves, causal=size.causal, return_stats=True).out
    q, k, v = leaves

    def gradients_of(way: Way) -> Way:
        result = way()
        return lambda: torch.autograd.grad(result, leaves, dout, retain_graph=True)

    def error() -> tuple[float, float]:
        few, dfew = [x.detach()[:1, :1, :_CHECKED] for x in leaves], dout[:1, :1, :_CHECKED]
        return _error([_gradients(few, dfew, size, cast) for cast in (None, torch.float64, dtype)])

    peers = _peers(device, lambda: scaled_dot_product_attention(q, k, v, is_causal=size.causal), gradients_of)
    return Ways(ours=lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True), error=error, peers=peers)


def _inputs(size: _Size, dtype: torch.dtype, device: torch.device, seed: int = 0) -> list[Tensor]:
    rng = torch.Generator(device).manual_seed(seed)
    return [torch.randn(size.b, size.h, size.n, size.d, device=device, generator=rng).to(dtype) for _ in range(3)]


def _peers(device: torch.device, way: Way, made: Any = lambda way: way) -> dict[str, Way]:
    if device.type != "cuda":
        return {"torch": made(way)}
    found = {}
    for name, backend in _BACKENDS.items():
        chosen = partial(_by_backend, backend, way)
        found[name] = made(chosen)
    return found


def _by_backend(backend: SDPBackend, way: Way) -> Any:
    with sdpa_kernel(backend):
        return way()


def _with_statistics(inputs: list[Tensor], size: _Size, cast: torch.dtype | None) -> list[Tensor]:
    """Ours, or in plain torch in the dtype `cast`: out, lse and statistics, these relative to one."""
    if cast is None:
        found = attention(*inputs, causal=size.causal, return_stats=True)
        assert found.stats is not None
        return [found.out, found.lse, *found.stats]
    q, k, v = (x.to(cast) for x in inputs)
    out, lse, stats = reference.attention(q, k, v, None, None, size.causal, None, size.d**-0.5, True)
    return [out, lse, *stats]


def _gradients(inputs: list[Tensor], dout: Tensor, size: _Size, cast: torch.dtype | None) -> list[Tensor]:
    leaves = [(x if cast is None else x.to(cast)).detach().requires_grad_() for x in inputs]
    if cast is None:
        out = attention(*leaves, causal=size.causal).out
    else:
        q, k, v = leaves
        out = reference.attention(q, k, v, None, None, size.causal, None, size.d**-0.5, False)[0]
    return list(torch.autograd.grad(out, leaves, dout.to(out.dtype)))


def _error(found: list[list[Tensor]]) -> tuple[float, float]:
    """The result whose error uses most of what it may have: that error, and twice plain torch's plus a rounding.

    Each relative to the largest value; the rounding is that of the inputs' dtype, as weights are rounded to it.
    """
    pairs, eps = [], torch.finfo(found[0][0].dtype).eps
    for ours, truth, plain in zip(*found, strict=True):
        scale = truth.abs().max().clamp_min(1e-30)
        error, other = (((x.double() - truth).abs().max() / scale).item() for x in (ours, plain))
        pairs.append((error, 2 * other + eps))
    return max(pairs, key=lambda pair: pair[0] / pair[1])
