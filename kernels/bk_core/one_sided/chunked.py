"""The one-sided resolvent in plain torch: chunks of all chains step together, and their maps are composed by doubling.

Layouts: R row, which is a head of a batch; P chunk, K site of a chunk; a step of K touches a contiguous piece.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.bk_core.matrices import affine_entering, composed, normalised

__all__ = ["bk_one_sided", "bk_one_sided_backward"]

_SITES = 16
"""Of a chunk: each is a few launches whatever the length, fewer are more work to compose."""
_STEPS = 8
"""Between two normalisations of minors, which grow by |u| + 1 a step: 1e4 to the 8th is still a float32."""


def bk_one_sided(u: Tensor, w: Tensor) -> Tensor:
    rows, links = _rows(u + 0 * u), _rows(w)
    d_KRP, w_KRP = torch.complex(_cut(rows), u.new_full((), -1.0)), _cut(pad(links[:, 1:], (1, 0)))
    rho, found = _entering(d_KRP, w_KRP), torch.empty_like(d_KRP)
    for k in range(d_KRP.shape[0]):
        rho = torch.reciprocal(torch.addcmul(d_KRP[k], w_KRP[k].to(d_KRP.dtype), rho, value=-1), out=found[k])
    return torch.view_as_real(_by_heads(_joined(found, rows.shape[1]), u.shape))


def bk_one_sided_backward(grad: Tensor, w: Tensor, rho: Tensor, of_links: bool) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    r, s = _rows(torch.view_as_complex(rho)), _rows(torch.view_as_complex(grad.contiguous()).conj()).resolve_conj()
    square = r.square()
    total = square * _sums_from_the_right(pad((_rows(w) * square)[:, 1:], (0, 1)), s)
    of_u = _by_heads(-total.real, w.shape)
    if not of_links:
        return of_u, w.new_empty(0)
    return of_u, _by_heads(pad((total[:, 1:] * r[:, :-1]).real, (1, 0)), w.shape)


def _entering(d_KRP: Tensor, w_KRP: Tensor) -> Tensor:
    """(R, P): ρ of the site before each chunk."""
    entering = torch.zeros_like(d_KRP[0])
    if entering.shape[1] == 1:
        return entering
    maps = composed(_maps(d_KRP, w_KRP.neg()))
    entering[:, 1:] = (maps[0, 1] / maps[1, 1])[:, :-1]
    return entering


def _maps(d_KRP: Tensor, minus_w_KRP: Tensor) -> Tensor:
    """(2, 2, R, P): what each chunk makes of the ρ that enters it, as numerator and denominator."""
    one, zero = torch.ones_like(d_KRP[0]), torch.zeros_like(d_KRP[0])
    above, below = torch.stack((one, zero)), torch.stack((zero, one))  # rows of the identity
    for k in range(d_KRP.shape[0]):
        above, below = below, torch.addcmul(minus_w_KRP[k] * above, d_KRP[k], below)
        if k % _STEPS == _STEPS - 1:
            above, below = normalised(torch.stack((above, below)))
    return normalised(torch.stack((above, below)))


def _sums_from_the_right(factor: Tensor, s: Tensor) -> Tensor:
    """(rows, n): T[i] = s[i] + factor[i] T[i + 1]."""
    f_KRP, s_KRP = _cut(factor.flip(1)), _cut(s.flip(1))
    total, scale = torch.zeros_like(s_KRP[0]), torch.ones_like(s_KRP[0])
    for k in range(s_KRP.shape[0]):
        total, scale = torch.addcmul(s_KRP[k], f_KRP[k], total), scale * f_KRP[k]
    now, sums = affine_entering(scale, total), torch.empty_like(s_KRP)
    for k in range(s_KRP.shape[0]):
        now = torch.addcmul(s_KRP[k], f_KRP[k], now, out=sums[k])
    return _joined(sums, s.shape[1]).flip(1)


def _cut(values: Tensor) -> Tensor:
    """(rows, n) as (K, R, P), zeros behind the end."""
    rows, n = values.shape
    sites = min(_SITES, n)
    return pad(values, (0, -n % sites)).view(rows, -1, sites).permute(2, 0, 1).contiguous()


def _joined(values_KRP: Tensor, n: int) -> Tensor:
    """(rows, n)."""
    return values_KRP.permute(1, 2, 0).flatten(1)[:, :n]


def _rows(values: Tensor) -> Tensor:
    """(B, N, heads) as (rows, N)."""
    return values.transpose(1, 2).reshape(-1, values.shape[1])


def _by_heads(rows: Tensor, shape: torch.Size) -> Tensor:
    """The reverse, contiguous."""
    return rows.reshape(shape[0], shape[2], shape[1]).transpose(1, 2).contiguous()
