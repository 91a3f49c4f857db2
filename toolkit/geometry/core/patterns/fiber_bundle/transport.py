"""Parallel transport along broken lines, given the connection form at any points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["transport"]


def transport(connection: Callable[[Tensor], Tensor], points: Tensor, method: Literal["exponential", "rk4"]) -> Tensor:
    """The solution at the end of ds/dt = -A(dx/dt) s, s(0) = I, along straight lines between points.

    Args:
        connection: [*B, K - 1, n] -> [*B, K - 1, n, k, k], the form at points.
        points: [*B, K, n].
        method: "exponential": one exponential a line, of the form at its middle. "rk4": one classical step a line.

    Returns:
        [*B, k, k].
    """
    moves, start = points.diff(dim=-2), points[..., :-1, :]

    def generator(fraction: float) -> Tensor:
        """-A(move) at a fraction of each line, [*B, K - 1, k, k]."""
        form = connection(start + fraction * moves)
        return -torch.einsum("...i,...iab->...ab", moves.to(form.dtype), form)

    middle = generator(0.5)
    eye = torch.eye(middle.shape[-1], dtype=middle.dtype).expand(middle.shape)
    if method == "exponential":
        steps: Tensor = torch.linalg.matrix_exp(middle)
    else:
        k1 = generator(0.0)
        k2 = middle @ (eye + k1 / 2)
        k3 = middle @ (eye + k2 / 2)
        k4 = generator(1.0) @ (eye + k3)
        steps = eye + (k1 + 2 * k2 + 2 * k3 + k4) / 6
    total = steps[..., 0, :, :]
    for line in range(1, steps.shape[-3]):
        total = steps[..., line, :, :] @ total
    return total
