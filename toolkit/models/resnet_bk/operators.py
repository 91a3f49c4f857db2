"""What the model computes with: the package `kernels` where it is ours, else plain torch. The one place that asks.

Another distribution on the package index is called `kernels` too; then, and where none is installed, `USES_KERNELS` is
false, `HINT` says how to get ours, and answers are the same to rounding, in more time and memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.models.exporting import exporting
from toolkit.models.resnet_bk import plain, spelled_out

try:
    from kernels.bk_core import bk_features
    from kernels.bk_core.one_sided import bk_one_sided
    from kernels.moe import experts
except ImportError:
    USES_KERNELS = False
else:
    USES_KERNELS = True

__all__ = ["HINT", "USES_KERNELS", "autocast_to", "diagonal", "mixture"]

HINT = (
    "" if USES_KERNELS else "the package `kernels` is missing, or is another distribution's: install edge-toolkit in an"
    " environment of its own"
)  # fmt: skip


def diagonal(u: Tensor, w: Tensor, *, causal: bool) -> Tensor:
    """[Re G, Im G] of each site of (H − i)⁻¹: of the chain that ends there, or of the whole chain.

    Args:
        u: (B, N, heads) float32 or float64: the diagonal of H.
        w: Same shape: the link to each site from the one before it, >= 0; of the first it is not looked at.

    Returns:
        (B, N, heads, 2), |G| <= 1.
    """
    by_kernels = USES_KERNELS and not exporting()
    if causal and by_kernels:
        return bk_one_sided(u, w)
    shape = (u.shape[0], u.shape[2], u.shape[1], 2)
    u, w = (t.transpose(1, 2).reshape(-1, t.shape[1]) for t in (u, w))
    if by_kernels:
        found = bk_features(u, z=1j, upper=w[:, 1:], lower=1.0, diagonal=0.0)
    else:
        found = spelled_out.one_sided(u, w) if causal else spelled_out.two_sided(u, w)
    return found.view(shape).transpose(1, 2)


def mixture(
    x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor
) -> Tensor:
    """What the chosen experts say to each token, by their gates, as `kernels.moe.experts` does; GELU between.

    Args:
        x: (tokens, d).
        chosen, gates: (tokens, k).
        w_in, b_in, w_out, b_out: (E, hidden, d), (E, hidden), (E, d, hidden), (E, d).

    Returns:
        (tokens, d).
    """
    if USES_KERNELS:
        return experts(x, chosen, gates, w_in, w_out, b_in=b_in, b_out=b_out, activation="gelu")
    return plain.mixture(x, chosen, gates, w_in, b_in, w_out, b_out)


def autocast_to(device: torch.device) -> torch.dtype | None:
    """What autocast has products computed in on this device; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
