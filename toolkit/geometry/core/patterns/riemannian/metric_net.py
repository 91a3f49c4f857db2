"""A metric that is learned: positive definite whatever its weights are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolkit.errors import GeometryError
from toolkit.rng import torch_generator

__all__ = ["MetricNet"]


class MetricNet(nn.Module):
    """g(x) = L L^T + floor I, with L lower triangular and softplus on its diagonal, L from a network of one layer.

    Smooth (tanh), so that its curvature exists. The smallest eigenvalue is at least `floor`.

    Args:
        dim: n.
        width: Hidden units.
        floor: The smallest eigenvalue that is allowed, > 0.
        seed: Of the initial weights.
        dtype: Of the weights.
    """

    def __init__(self, dim: int, *, width: int = 32, floor: float = 1e-3, seed: int = 0,
                 dtype: torch.dtype = torch.float64) -> None:  # fmt: skip
        super().__init__()
        if not floor > 0:
            raise GeometryError(f"a metric with the floor {floor}", hint="the smallest eigenvalue must be positive")
        generator = torch_generator(seed, "metric-net")
        entries = dim * (dim + 1) // 2

        def weights(*shape: int) -> nn.Parameter:
            drawn = torch.randn(*shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[-1])
            return nn.Parameter(drawn.to(dtype))

        self.dim, self.floor = dim, floor
        self.inward, self.outward = weights(width, dim), weights(entries, width)
        self.inward_bias = nn.Parameter(torch.zeros(width, dtype=dtype))
        self.outward_bias = nn.Parameter(torch.zeros(entries, dtype=dtype))
        self.register_buffer("_rows", torch.tril_indices(dim, dim)[0], persistent=False)
        self.register_buffer("_columns", torch.tril_indices(dim, dim)[1], persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        """g at points [*B, n] -> [*B, n, n]."""
        entries = torch.tanh(points @ self.inward.T + self.inward_bias) @ self.outward.T + self.outward_bias
        rows, columns = self.get_buffer("_rows"), self.get_buffer("_columns")
        basis = points.new_zeros(len(rows), self.dim, self.dim)
        basis[torch.arange(len(rows)), rows, columns] = 1.0  # lower triangles without writing into a mapped tensor
        values = torch.where(rows == columns, nn.functional.softplus(entries), entries)
        lower = torch.einsum("...e,eij->...ij", values, basis)
        return lower @ lower.mT + self.floor * torch.eye(self.dim, dtype=points.dtype)
