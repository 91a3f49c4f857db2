"""What is no chain with a resolvent is refused, in words that say why."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["refuse_bad_input"]

_WHY = (
    "the resolvent (H - z)^-1 need not exist on the real axis, where H has its eigenvalues: give z a positive"
    " imaginary part (a broadening)"
)


def refuse_bad_input(
    v: Tensor,
    z: complex | Tensor,
    upper: float | Tensor,
    lower: float | Tensor | None,
    diagonal: float | Tensor,
) -> None:
    """Raises ValueError or TypeError, as `bk_core` says; looks at no number that lies on another device."""
    if v.ndim != 2 or v.shape[1] == 0:
        raise ValueError(f"v must be (batch, n>=1), got {tuple(v.shape)}")
    if v.shape[1] >= 2**31:
        raise ValueError(f"a row of v must have fewer than 2^31 sites, got {v.shape[1]}")
    if v.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"v must be float32 or float64, got {v.dtype}: convert it, the recursions need the precision")
    batch, n = v.shape
    _energy(z, v, batch)
    _real("upper", upper, v, n - 1)
    _real("lower", upper if lower is None else lower, v, n - 1)
    _real("diagonal", diagonal, v, n)
    if lower is not None and _is_negative(upper, lower):
        raise ValueError(
            f"upper * lower is negative, {upper} * {lower}: then H is similar to no symmetric matrix, and its"
            " eigenvalues may lie anywhere"
        )


def _energy(z: complex | Tensor, v: Tensor, batch: int) -> None:
    if not isinstance(z, Tensor):
        if not complex(z).imag > 0:
            raise ValueError(f"Im z must be positive, got z = {z}: {_WHY}")
        return
    if z.dtype != v.dtype.to_complex():
        raise TypeError(f"z must be {v.dtype.to_complex()} where v is {v.dtype}, got {z.dtype}")
    if z.device != v.device:
        raise ValueError(f"z is on {z.device} and v on {v.device}: they must be on one device")
    if z.ndim > 1 or (z.ndim == 1 and z.shape[0] != batch):
        raise ValueError(f"z must be one number or ({batch},), one a row of v, got {tuple(z.shape)}")
    if z.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((z.imag > 0).all()):
        raise ValueError(f"Im z must be positive, got {z.imag.min().item()}: {_WHY}")


def _real(name: str, values: float | Tensor, v: Tensor, length: int) -> None:
    if not isinstance(values, Tensor):
        if isinstance(values, complex):
            raise TypeError(f"{name} must be real, got {values}")
        return
    if values.dtype != v.dtype:
        raise TypeError(f"{name} must be {v.dtype} as v is, got {values.dtype}")
    if values.device != v.device:
        raise ValueError(f"{name} is on {values.device} and v on {v.device}: they must be on one device")
    if values.shape not in ((), (length,), (v.shape[0], length)):
        raise ValueError(
            f"{name} must be one number, ({length},) or ({v.shape[0]}, {length}), got {tuple(values.shape)}"
        )


def _is_negative(upper: float | Tensor, lower: float | Tensor) -> bool:
    return not isinstance(upper, Tensor) and not isinstance(lower, Tensor) and upper * lower < 0
