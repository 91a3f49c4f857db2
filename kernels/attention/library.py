"""Attention by torch's own kernel for the CPU, where it takes the call: it gives lse as well, but no statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.dispatch import Call

__all__ = ["attention", "refusal"]


def refusal(call: Call) -> str | None:
    """Why torch's kernel does not take a call; what it would take wrongly counts as well."""
    sizes = call.sizes
    if call.machine.kind != "cpu":
        return "torch's kernels for other devices give lse in layouts of their own"
    if sizes["statistics"]:
        return "torch's kernel knows no statistics"
    if sizes["masks"] or (sizes["causal"] and sizes["M"] != sizes["N"]):
        return "torch's kernel wants other masks as a matrix, and aligns queries and keys at their beginning"
    if sizes["H"] != sizes["K"] or sizes["d"] != sizes["dv"]:
        return "torch's kernel wants as many heads in k and v as in q, and one width"
    return None if all(sizes[name] for name in ("B", "H", "M", "N")) else "torch's kernel divides by sizes"


def attention(
    q: Tensor, k: Tensor, v: Tensor, key_padding: None, tiles: None,
    causal: bool, window: None, scale: float, return_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(out, lse, no statistics)."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # what gives lse has no public name
    out, lse = kernel(q, k, v, 0.0, causal, scale=scale)
    return out.contiguous(), lse.contiguous(), lse.new_zeros(0, *q.shape[:2])
