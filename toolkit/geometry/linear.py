"""Linear systems that stay right under nested transforms."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["solve"]


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """X with matrix X = right, [*B, n, n] and [*B, n, k] -> [*B, n, k]; differentiable to any order.

    With n = 2 by Cramer's rule, whose derivatives are a few products; else by QR, because `torch.linalg.solve` (2.13)
    differentiates through `lu_solve`, which broadcasts its factors wrongly when `torch.vmap` maps points over
    `torch.func.jacfwd`: values came out wrong without an error.
    """
    if matrix.shape[-1] == 2:
        signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=matrix.dtype, device=matrix.device)
        adjugate = matrix.flip((-2, -1)).mT * signs
        determinant = (matrix[..., 0, :] * adjugate[..., :, 0]).sum(-1)
        return adjugate @ right / determinant[..., None, None]
    q, r = torch.linalg.qr(matrix)
    solution: Tensor = torch.linalg.solve_triangular(r, q.mH @ right, upper=True)
    return solution
