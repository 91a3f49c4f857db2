"""What the left half of a chain gives, and its gradient, site after site: written to be read."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bk_one_sided", "bk_one_sided_backward"]


def bk_one_sided(u: Tensor, w: Tensor) -> Tensor:
    d = torch.complex(u + 0 * u, torch.full_like(u, -1.0))  # infinity becomes NaN
    rho = [1 / d[:, 0]]
    for i in range(1, d.shape[1]):
        rho.append(1 / (d[:, i] - w[:, i] * rho[i - 1]))
    return torch.view_as_real(torch.stack(rho, 1))


def bk_one_sided_backward(grad: Tensor, w: Tensor, rho: Tensor, of_links: bool) -> tuple[Tensor, Tensor]:
    """Gradients with respect to `u` and, empty where it is not asked for, `w`; (B, N, heads) each."""
    r, s = torch.view_as_complex(rho), torch.view_as_complex(grad).conj()
    total = [s[:, -1]]
    for i in reversed(range(r.shape[1] - 1)):
        total.append(s[:, i] + w[:, i + 1] * r[:, i + 1] ** 2 * total[-1])
    sensitivity = r**2 * torch.stack(total[::-1], 1)
    if not of_links:
        return -sensitivity.real, w.new_empty(0)
    before = torch.cat((torch.zeros_like(r[:, :1]), r[:, :-1]), 1)
    return -sensitivity.real, (sensitivity * before).real
