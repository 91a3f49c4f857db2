"""Experts one after the other, each on the tokens that chose it: the form in plain torch.

Choice c = token * k + j. Choices are sorted by expert; how many each has is read by the host, once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear

from kernels.activation import activated, slope
from kernels.moe.layers import Layers

__all__ = ["experts", "experts_backward"]


def experts(x: Tensor, chosen: Tensor, gates: Tensor, layers: Layers, keep: bool) -> list[Tensor]:
    """The result, and for the gradients the order of the choices and what came before the activation, in that order."""
    w_in, b_in, w_out, b_out, activation = layers
    order = chosen.flatten().argsort(stable=True)
    z = x.new_empty(order.numel() if keep else 0, w_in.shape[1])
    out = x.new_zeros(x.shape, dtype=_wide(x))
    for expert, part in _parts(chosen, w_in.shape[0]):
        choice = order[part]
        token = choice // chosen.shape[1]
        before = linear(x[token], w_in[expert], _of(b_in, expert))
        if keep:
            z[part] = before
        said = linear(activated(before, activation), w_out[expert], _of(b_out, expert))
        out.index_add_(0, token, said.to(out.dtype) * gates.flatten()[choice, None].to(out.dtype))
    return [out.to(x.dtype), order, z]


def experts_backward(
    grad: Tensor, x: Tensor, chosen: Tensor, gates: Tensor, layers: Layers, saved: list[Tensor]
) -> list[Tensor]:
    """Of x, gates, w_in, b_in, w_out and b_out; the biases' are empty where there are none.

    A gate's gradient, gradient · (w_out h + b_out), is (gradient w_out) · h + gradient · b_out, whose product is there.
    """
    w_in, b_in, w_out, b_out, activation = layers
    order, z = saved
    dx, dgates = x.new_zeros(x.shape, dtype=_wide(x)), gates.new_empty(gates.numel())
    dw_in, dw_out = (w.new_zeros(w.shape) for w in (w_in, w_out))
    db_in, db_out = (w.new_zeros(w.shape[:2] if b_in is not None else 0) for w in (w_in, w_out))
    for expert, part in _parts(chosen, w_in.shape[0]):
        choice = order[part]
        token, before = choice // chosen.shape[1], z[part]
        h, dsaid = activated(before, activation), grad[token]
        dh = dsaid @ w_out[expert]
        along = (dh.to(dx.dtype) * h.to(dx.dtype)).sum(1)
        if b_out is not None:
            along = along + dsaid.to(dx.dtype) @ b_out[expert].to(dx.dtype)
        dgates[choice] = along.to(dgates.dtype)
        gate = gates.flatten()[choice, None].to(x.dtype)
        dsaid, dz = dsaid * gate, dh * gate * slope(before, activation)
        dw_out[expert], dw_in[expert] = dsaid.T @ h, dz.T @ x[token]
        if b_in is not None:
            db_in[expert], db_out[expert] = dz.sum(0), dsaid.sum(0)
        dx.index_add_(0, token, (dz @ w_in[expert]).to(dx.dtype))
    return [dx.to(x.dtype), dgates.view_as(gates), dw_in, db_in, dw_out, db_out]


def _parts(chosen: Tensor, experts: int) -> Iterator[tuple[int, slice]]:
    """Each expert that was chosen, and its part of the sorted choices.

    Raises:
        ValueError: one was chosen that there is not.
    """
    if chosen.numel():
        low, high = (int(end) for end in chosen.aminmax())
        if low < 0 or high >= experts:
            raise ValueError(f"chosen must be of 0..{experts - 1}, the {experts} experts there are, got {low}..{high}")
    first = 0
    for expert, count in enumerate(torch.bincount(chosen.flatten(), minlength=experts).tolist()):
        if count:
            yield expert, slice(first, first + count)
        first += count


def _of(bias: Tensor | None, expert: int) -> Tensor | None:
    return None if bias is None else bias[expert]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
