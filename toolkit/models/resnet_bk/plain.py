"""What stands for the package `kernels` where it is missing: the same in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import gelu, pad

__all__ = ["mixture", "two_sided"]


def two_sided(u: Tensor, w: Tensor, one_sided: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(rows, n, 2): G[i, i] = 1 / (u[i] − i − w[i] ρ[i − 1] − w[i + 1] λ[i + 1]), λ being ρ of the reversed chain.

    Since ρ[i] = 1 / (u[i] − i − w[i] ρ[i − 1]), that is 1 / (1 / ρ[i] − w[i + 1] λ[i + 1]).
    """
    to_next = pad(w[:, 1:], (0, 1))
    from_left = pad(w[:, 1:], (1, 0))[..., None] * pad(one_sided(u, w)[:, :-1], (0, 0, 1, 0))
    reverse = one_sided(u.flip(1), pad(to_next[:, :-1].flip(1), (1, 0))).flip(1)
    from_right = to_next[..., None] * pad(reverse[:, 1:], (0, 0, 0, 1))
    real, imag = (from_left + from_right).unbind(-1)
    real, imag = u - real, -1 - imag
    return torch.stack((real, -imag), -1) / (real.square() + imag.square())[..., None]


def mixture(
    x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor
) -> Tensor:
    """Each expert computes the tokens that chose it."""
    out = torch.zeros_like(x)
    for expert in range(len(w_in)):
        token, choice = (chosen == expert).nonzero(as_tuple=True)
        said = gelu(x[token] @ w_in[expert].T + b_in[expert]) @ w_out[expert].T + b_out[expert]
        out = out.index_add(0, token, said * gates[token, choice, None].to(x.dtype))
    return out
