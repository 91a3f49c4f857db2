"""Diagonals of resolvents beside the published recursion, a tridiagonal solve, and the forms beside one another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor

from kernels.bk_core import bk_core, chunked, operators
from kernels.bk_core.chain import Chain
from kernels.bk_core.one_sided import bk_one_sided
from kernels.dispatch import Operator
from toolkit.bench.kernels.case import Case, Way, Ways

__all__ = ["cases", "published"]

_Z = 0.3 + 1j
_SHAPES: tuple[tuple[str, int, int, Mapping[str, float]], ...] = (
    ("cuda", 8192, 2048, {"floor": 3.0, "cusparse_solve": 1.0}),
    ("cuda", 32, 1024, {"published": 500.0}),
    ("cuda", 32, 4096, {}),
    ("cuda", 65_536, 1024, {}),  # from here on as many sites in ever longer rows: the rate shows whether n counts once
    ("cuda", 2048, 32_768, {}),
    ("cuda", 64, 1_048_576, {}),
    ("cpu", 2048, 1024, {}),
    ("cpu", 64, 32_768, {}),
    ("cpu", 2, 1_048_576, {}),
)
_BACKWARD_SHAPES: tuple[tuple[str, int, int, Mapping[str, float]], ...] = (
    ("cuda", 8192, 2048, {"floor": 6.0}),
    ("cuda", 32, 4096, {}),
    ("cpu", 64, 32_768, {}),
)
_ONE_SIDED_SHAPES = (("cuda", 1, 131_072, 32), ("cuda", 128, 1024, 32), ("cpu", 1, 16_384, 8))
"""Batch, sites and heads of the chains that end at each site."""
_FEW = 2
"""Rows that are held against float64."""


def cases() -> Iterator[Case]:
    for kind, batch, n, goals in _SHAPES:
        yield _case("bk_core", kind, batch, n, goals, 12, _forward)
    for kind, batch, n, goals in _BACKWARD_SHAPES:
        yield _case("bk_core_backward", kind, batch, n, goals, 16, _backward)
    for kind, *shape in _ONE_SIDED_SHAPES:
        for operator, bytes_a_site, prepare in (
            ("bk_one_sided", 12, _one_sided),
            ("bk_one_sided_backward", 20, _one_sided_backward),
        ):
            yield Case(
                operator=operator,
                shape=f"({', '.join(map(str, shape))}) fp32",
                kind=kind,
                prepare=partial(prepare, tuple(shape)),
                bytes_moved=bytes_a_site * prod(shape),
                goals={},
            )


def _case(
    operator: str,
    kind: str,
    batch: int,
    n: int,
    goals: Mapping[str, float],
    bytes_a_site: int,
    prepare: Callable[[int, int, torch.device], Ways],
) -> Case:
    return Case(
        operator=operator,
        shape=f"({batch}, {n}) fp32",
        kind=kind,
        prepare=partial(prepare, batch, n),
        bytes_moved=bytes_a_site * batch * n,
        goals=goals,
    )


def _forward(batch: int, n: int, device: torch.device) -> Ways:
    v = _potential(batch, n, device)

    def error() -> tuple[float, float]:
        few = v[:_FEW]
        return _relative(bk_core(few, z=_Z), bk_core(few.double(), z=_Z)), 1e-5

    peers: dict[str, Way] = {}
    if (batch, n) == (32, 1024):
        peers["published"] = lambda: published(v, _Z)
    if device.type == "cuda" and (batch, n) in ((8192, 2048), (32, 4096)):
        peers |= _triton(operators.FORWARD, v, Chain(v, 1.0, _Z - 2))
    if (batch, n) == (8192, 2048) and find_spec("cupy") is not None:
        peers |= _cusparse(v)
    return Ways(ours=lambda: bk_core(v, z=_Z), error=error, peers=peers)


def _backward(batch: int, n: int, device: torch.device) -> Ways:
    v = _potential(batch, n, device).requires_grad_()
    grad = torch.randn(batch, n, dtype=torch.complex64, device=device, generator=torch.Generator(device).manual_seed(1))
    green = bk_core(v, z=_Z)

    def gradient() -> Tensor:
        return torch.autograd.grad(green, v, grad, retain_graph=True)[0]

    def error() -> tuple[float, float]:
        chain = Chain(v[:_FEW].detach().double(), 1.0, _Z - 2)
        truth = chunked.bk_core_backward(grad[:_FEW].to(torch.complex128), chain)[0]
        return ((gradient()[:_FEW] - truth).abs().max() / truth.abs().max()).item(), 1e-5

    chain = Chain(v.detach(), 1.0, _Z - 2)
    peers = _triton(operators.BACKWARD, v, grad, chain, False, False) if device.type == "cuda" else {}
    return Ways(ours=gradient, error=error, peers=peers)


def _one_sided(shape: tuple[int, ...], device: torch.device) -> Ways:
    u, w = _heads(shape, device)

    def error() -> tuple[float, float]:
        truth = bk_one_sided(u.double(), w.double())
        return ((bk_one_sided(u, w) - truth).norm(dim=-1) / truth.norm(dim=-1)).max().item(), 1e-5

    return Ways(ours=lambda: bk_one_sided(u, w), error=error, peers={})


def _one_sided_backward(shape: tuple[int, ...], device: torch.device) -> Ways:
    u, w = _heads(shape, device)
    grad = torch.randn(*shape, 2, device=device, generator=torch.Generator(device).manual_seed(1))

    def gradient(u: Tensor, w: Tensor) -> Tensor:
        given = u.detach().requires_grad_()
        return torch.autograd.grad(bk_one_sided(given, w), given, grad.to(u.dtype))[0]

    def error() -> tuple[float, float]:
        truth = gradient(u.double(), w.double())
        return ((gradient(u, w) - truth).abs().max() / truth.abs().max()).item(), 1e-5

    given = u.requires_grad_()
    rho = bk_one_sided(given, w)
    return Ways(ours=lambda: torch.autograd.grad(rho, given, grad, retain_graph=True)[0], error=error, peers={})


def _heads(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Potentials in units of their broadening, and one link for each head, as the language model has them."""
    u = 3 * torch.randn(*shape, device=device, generator=torch.Generator(device).manual_seed(0))
    return u, torch.linspace(0.5, 4, shape[-1], device=device).expand(shape)


def _potential(batch: int, n: int, device: torch.device) -> Tensor:
    return torch.randn(batch, n, device=device, generator=torch.Generator(device).manual_seed(0))


def _triton(operator: Operator[Any], v: Tensor, *arguments: Any) -> dict[str, Way]:
    """The Triton form, where it takes the call."""
    call = operators.call(v)
    found = [form for form in operator.forms if form.name == "triton" and form.refusal(call) is None]
    return {form.name: partial(form.load(), *arguments) for form in found}


def published(v: Tensor, z: complex) -> Tensor:
    """The recursion over determinants as it is published: G[i, i] = θ[i − 1] φ[i + 1] / θ[n], complex128."""
    d = v.to(torch.complex128) + (2 - z)
    left, right = [torch.ones_like(d[:, 0]), d[:, 0]], [torch.ones_like(d[:, 0]), d[:, -1]]
    n = d.shape[1]
    for i in range(1, n):
        left.append(d[:, i] * left[i] - left[i - 1])
        right.append(d[:, n - 1 - i] * right[i] - right[i - 1])
    return torch.stack(left[:-1], 1) * torch.stack(right[-2::-1], 1) / left[-1][:, None]


def _cusparse(v: Tensor) -> dict[str, Way]:
    try:
        solve = _solve(v)
        solve()
    except (ImportError, RuntimeError) as missing:
        warnings.warn(f"cuSPARSE is left out: {missing}", stacklevel=2)
        return {}
    return {"cusparse_solve": solve}


def _solve(v: Tensor) -> Way:
    """One right-hand side for each matrix, solved by cuSPARSE in place: less than the whole diagonal of the inverse."""
    import cupy  # type: ignore[import-not-found,unused-ignore] # noqa: F401 (it finds the libraries of the next)
    from cupy_backends.cuda.libs import cusparse  # type: ignore[import-not-found,unused-ignore]

    batch, n = v.shape
    d = v.to(torch.complex64) + (2 - _Z)
    lower, upper, x = torch.full_like(d, -1), torch.full_like(d, -1), torch.ones_like(d)
    lower[:, 0] = 0
    upper[:, -1] = 0
    handle = cusparse.create()
    cusparse.setStream(handle, torch.cuda.current_stream().cuda_stream)
    arrays = [values.data_ptr() for values in (lower, d, upper, x)]
    size = cusparse.cgtsv2StridedBatch_bufferSizeExt(handle, n, *arrays, batch, n)
    workspace = torch.empty(size, dtype=torch.int8, device=v.device)

    def run() -> tuple[Tensor, ...]:
        cusparse.cgtsv2StridedBatch(handle, n, *arrays, batch, n, workspace.data_ptr())
        return lower, d, upper, x  # which it reads and writes, and which are to live as long as it

    return run


def _relative(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).abs() / truth.abs()).max().item()
