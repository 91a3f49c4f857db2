"""A matrix of weights, whole or as two factors, with a bias where it is wanted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Projection"]


class Projection(nn.Module):
    """(outputs, inputs), uniform in +-`bound`; of rank `rank` it is left (outputs, rank) times right (rank, inputs).

    Factors are drawn so that elements of their product have the variance of those of the whole matrix.
    """

    def __init__(
        self, outputs: int, inputs: int, *, bound: float, rank: int | None, bias: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        if rank is None:
            self.weight = nn.Parameter(_uniform((outputs, inputs), bound, generator))
        else:
            each = (3 * bound**2 / rank) ** 0.25  # variances multiply and add: rank (e²/3)² = bound²/3
            self.left = nn.Parameter(_uniform((outputs, rank), each, generator))
            self.right = nn.Parameter(_uniform((rank, inputs), each, generator))
        self.is_whole = rank is None
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def matrix(self) -> Tensor:
        """(outputs, inputs)."""
        return self.weight if self.is_whole else self.left @ self.right


def _uniform(shape: tuple[int, int], bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
