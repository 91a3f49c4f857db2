"""Experts as they are defined, each asked about every token and heard where it was chosen; and the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.activation import activated, slope
from kernels.moe.layers import Layers

__all__ = ["experts", "experts_backward"]


def experts(x: Tensor, chosen: Tensor, gates: Tensor, layers: Layers) -> Tensor:
    _, h = _hidden(x, layers)
    return (_said(h, layers) * _by_expert(gates, chosen, layers.experts)[:, :, None].to(x.dtype)).sum(1)


def experts_backward(grad: Tensor, x: Tensor, chosen: Tensor, gates: Tensor, layers: Layers) -> tuple[Tensor, ...]:
    """Of x, gates, w_in, b_in, w_out and b_out. With g the gates: dz = g act'(z) (gradient w_out), and so on."""
    z, h = _hidden(x, layers)
    dgates = torch.einsum("td,ted->te", grad, _said(h, layers)).gather(1, chosen)
    heard = grad[:, None, :] * _by_expert(gates, chosen, layers.experts)[:, :, None].to(x.dtype)  # (T, E, d)
    dz = torch.einsum("ted,edh->teh", heard, layers.w_out) * slope(z, layers.activation)
    dw_out, dw_in = torch.einsum("ted,teh->edh", heard, h), torch.einsum("teh,td->ehd", dz, x)
    return torch.einsum("teh,ehd->td", dz, layers.w_in), dgates.to(gates.dtype), dw_in, dz.sum(0), dw_out, heard.sum(0)


def _hidden(x: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
    """(tokens, E, hidden), before and after the activation."""
    z = torch.einsum("td,ehd->teh", x, layers.w_in)
    z = z if layers.b_in is None else z + layers.b_in
    return z, activated(z, layers.activation)


def _said(h: Tensor, layers: Layers) -> Tensor:
    """(tokens, E, d): what every expert says."""
    said = torch.einsum("teh,edh->ted", h, layers.w_out)
    return said if layers.b_out is None else said + layers.b_out


def _by_expert(gates: Tensor, chosen: Tensor, experts: int) -> Tensor:
    """(tokens, E): the gate where an expert was chosen, else 0."""
    return gates.new_zeros(gates.shape[0], experts).scatter(1, chosen, gates)
