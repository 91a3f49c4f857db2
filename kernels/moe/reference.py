"""Experts as they are defined, each asked about every token and heard where it was chosen; and the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.activation import activated, slope

__all__ = ["experts", "experts_backward"]


def experts(
    x: Tensor,
    chosen: Tensor,
    gates: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    activation: str,
) -> Tensor:
    _, h = _hidden(x, w_in, b_in, activation)
    said = torch.einsum("teh,edh->ted", h, w_out)
    if b_out is not None:
        said = said + b_out
    return (said * _by_expert(gates, chosen, w_in.shape[0])[:, :, None].to(x.dtype)).sum(1)


def experts_backward(
    grad: Tensor,
    x: Tensor,
    chosen: Tensor,
    gates: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    activation: str,
) -> tuple[Tensor, ...]:
    """Of x, gates, w_in, b_in, w_out and b_out. With g the gates: dz = g act'(z) (gradient w_out), and so on."""
    z, h = _hidden(x, w_in, b_in, activation)
    said = torch.einsum("teh,edh->ted", h, w_out)
    said = said if b_out is None else said + b_out
    dgates = torch.einsum("td,ted->te", grad, said).gather(1, chosen)
    heard = grad[:, None, :] * _by_expert(gates, chosen, w_in.shape[0])[:, :, None].to(x.dtype)  # (T, E, d)
    dz = torch.einsum("ted,edh->teh", heard, w_out) * slope(z, activation)
    dw_out, dw_in = torch.einsum("ted,teh->edh", heard, h), torch.einsum("teh,td->ehd", dz, x)
    return torch.einsum("teh,ehd->td", dz, w_in), dgates.to(gates.dtype), dw_in, dz.sum(0), dw_out, heard.sum(0)


def _hidden(x: Tensor, w_in: Tensor, b_in: Tensor | None, activation: str) -> tuple[Tensor, Tensor]:
    """(tokens, E, hidden), before and after the activation."""
    z = torch.einsum("td,ehd->teh", x, w_in)
    z = z if b_in is None else z + b_in
    return z, activated(z, activation)


def _by_expert(gates: Tensor, chosen: Tensor, experts: int) -> Tensor:
    """(tokens, E): the gate where an expert was chosen, else 0."""
    return gates.new_zeros(gates.shape[0], experts).scatter(1, chosen, gates)
