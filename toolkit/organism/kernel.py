"""The operators of `kernels` as one object, which components are given and which a test can replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels import KernelUnavailable
from kernels.attention import AttentionOut, AttentionStats, attention, workspace_bytes
from kernels.correlation import correlation, correlation_workspace_bytes
from kernels.effective_rank import effective_rank, effective_rank_workspace_bytes
from toolkit.errors import BudgetExceeded, MissingDependency
from toolkit.organism.protocols import KernelCaps

__all__ = ["Kernels", "select_kernel"]

_Given: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Queries, keys, values, and which keys are padding."""

NARROWEST, WIDEST = 16, 256
"""Widths of heads that kernels.attention takes; narrower ones are filled up with zeros, which changes no answer."""


@dataclass(frozen=True)
class Kernels:
    """`kernels` on one kind of device, in whatever form runs there.

    Args:
        free_bytes: What may be allocated, asked before an attention is launched; None leaves that to `kernels`.
        allow_split: Where that does not suffice, whether the batch may be halved once.
    """

    device_type: str = "cpu"
    free_bytes: Callable[[], int] | None = None
    allow_split: bool = False
    name: str = "kernels"

    def caps(self) -> KernelCaps:
        """float16 and bfloat16 add up in float32."""
        dtypes = frozenset({"bfloat16", "float16", "float32", "float64"})
        return KernelCaps(dtypes, WIDEST, self.device_type, self.device_type == "cpu")

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, key_padding: Tensor | None = None,
        scale: float | None = None, return_stats: bool = False,
    ) -> AttentionOut:  # fmt: skip
        """`kernels.attention`, for heads of any width up to 256.

        Raises:
            BudgetExceeded: it does not fit into `free_bytes()`, nor do the halves; nothing was launched.
            MissingDependency: no form of it runs here.
        """
        width = v.shape[3]
        if q.shape[3] < NARROWEST or width < NARROWEST:
            scale = q.shape[3] ** -0.5 if scale is None else scale
            q, k, v = _filled(q), _filled(k), _filled(v)
        given = (q, k, v, key_padding)
        # An index that takes all is not free: its gradient is copied into zeros.
        parts = [given] if self.free_bytes is None else self._parts(given, self.free_bytes())
        try:
            with _on(q):
                found = [
                    attention(*of_all, causal=causal, scale=scale, return_stats=return_stats, key_padding=padding)
                    for *of_all, padding in parts
                ]
        except KernelUnavailable as error:
            hint = "leave KERNELS_FORM unset, and a form that runs is taken"
            raise MissingDependency(str(error), hint=hint) from error
        out, lse, stats = found[0] if len(found) == 1 else _joined(found)
        return AttentionOut(out if out.shape[3] == width else out[..., :width], lse, stats)

    def correlation(self, x: Tensor) -> Tensor:
        """Pearson between the columns of (T, D): (D, D)."""
        with _on(x):
            return correlation(x)

    def effective_rank(
        self, w: Tensor, *, kind: Literal["participation", "entropy", "stable"] = "participation"
    ) -> Tensor:
        """Of a matrix: a scalar."""
        with _on(w):
            return effective_rank(w, kind=kind)

    def workspace_bytes(self, op: str, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> int:
        """What a call on arguments of `shapes` allocates; those are single numbers seen at every place.

        Raises:
            KeyError: there is no such operator, or an argument is missing.
        """
        one = torch.zeros((), dtype=dtype, device=self.device_type)
        given = {name: one.expand(shape) for name, shape in shapes.items()}
        if op == "attention":
            return workspace_bytes(given["q"], given["k"], given["v"])
        return _WORKSPACES[op](next(iter(given.values())))

    def _parts(self, given: _Given, free: int) -> list[_Given]:
        q, k, v, padding = given
        needed, batch = workspace_bytes(q, k, v), q.shape[0]
        if needed <= free:
            return [given]
        half = -(-batch // 2)
        if self.allow_split and batch > 1 and workspace_bytes(q[:half], k, v) <= free:
            return [(q[part], k[part], v[part], None if padding is None else padding[part])
                    for part in (slice(0, half), slice(half, batch))]  # fmt: skip
        raise BudgetExceeded(
            f"attention needs {needed} bytes and {free} may be taken",
            hint="give it a smaller batch, shorter sequences or fewer components",
        )


_WORKSPACES: Mapping[str, Callable[[Tensor], int]] = {
    "correlation": correlation_workspace_bytes,
    "effective_rank": effective_rank_workspace_bytes,
}


def select_kernel(device: torch.device | str, dtype: torch.dtype, head_dim: int) -> Kernels:
    """The operators for components on `device`; a function of its arguments alone.

    Raises:
        MissingDependency: heads are wider, or numbers of another kind, than any form takes.
    """
    found = Kernels(torch.device(device).type)
    name = str(dtype).removeprefix("torch.")
    if name not in found.caps().dtypes or not 1 <= head_dim <= WIDEST:
        raise MissingDependency(
            f"no kernel for {name} heads of width {head_dim}",
            hint=f"use floating point numbers and heads of 1 to {WIDEST}",
        )
    return found


def _on(x: Tensor) -> AbstractContextManager[object]:
    """Where `x` is on a GPU, that one is current: Triton launches on the current one, wherever its arguments are."""
    is_here = not x.is_cuda or torch.compiler.is_compiling() or x.device.index == torch.cuda.current_device()
    return nullcontext() if is_here else torch.cuda.device(x.device)


def _filled(x: Tensor) -> Tensor:
    missing = NARROWEST - x.shape[3]
    return F.pad(x, (0, missing)) if missing > 0 else x


def _joined(parts: list[AttentionOut]) -> AttentionOut:
    out, lse = torch.cat([part.out for part in parts]), torch.cat([part.lse for part in parts])
    if parts[0].stats is None:
        return AttentionOut(out, lse, None)
    stats = [cast(AttentionStats, part.stats) for part in parts]
    return AttentionOut(out, lse, AttentionStats(*(torch.cat(each) for each in zip(*stats, strict=True))))
