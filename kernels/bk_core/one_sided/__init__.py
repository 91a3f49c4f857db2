"""The diagonal of a resolvent as the left half of the chain gives it: what a causal model may know of a chain."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.bk_core import doubling
from kernels.bk_core.one_sided import operators
from kernels.exporting import exporting

__all__ = ["bk_one_sided"]


def bk_one_sided(u: Tensor, w: Tensor) -> Tensor:
    """ρ[i], the last diagonal element of (H − i)⁻¹ for the chain that ends at site i, of many heads side by side.

    H is tridiagonal with diagonal `u` and products `w` of opposite off-diagonals. Nothing behind a site changes its ρ.
    |ρ| <= 1, and the relative error is at most 4 eps (1 + ‖H‖), ‖·‖ the largest sum of a row. Differentiable once.
    Another imaginary part η of the energy is a matter of units: u / η, w / η² and ρ / η.

    Args:
        u: (batch, n, heads) float32 or float64, |u| to 1e4.
        w: Same shape, dtype and device, >= 0: the link to each site from the one before it; may be expanded, and is
            not looked at for the first.

    Returns:
        (batch, n, heads, 2) in the dtype of `u`: real and imaginary part; NaN from the first site on at which `u` is
        NaN or infinite.

    Raises:
        ValueError: shapes or devices differ, or a chain has no site, or 2^31.
        TypeError: `u` is not float32 or float64, or `w` not of its dtype.
        MemoryError: result and workspace do not fit the device.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.

    Source: Godfrin 1991, J. Phys.: Condens. Matter 3, 7843 (the recursion); README.md has the gradient.
    """
    if u.ndim != 3 or u.shape[1] == 0 or u.shape != w.shape:
        raise ValueError(f"u and w must both be (batch, n>=1, heads), got {tuple(u.shape)} and {tuple(w.shape)}")
    if u.shape[1] >= 2**31:
        raise ValueError(f"a chain must have fewer than 2^31 sites, got {u.shape[1]}")
    if u.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"u must be float32 or float64, got {u.dtype}: convert it, the recursion needs the precision")
    if w.dtype != u.dtype:
        raise TypeError(f"w must be {u.dtype} as u is, got {w.dtype}")
    if w.device != u.device:
        raise ValueError(f"w is on {w.device} and u on {u.device}: they must be on one device")
    return doubling.one_sided(u, w) if exporting() else operators.bk_one_sided(u, w)
