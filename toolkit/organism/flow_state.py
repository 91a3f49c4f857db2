"""What passes from one call of an organism to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from toolkit.organism.errors import ShapeError

__all__ = ["FlowState"]


@dataclass(frozen=True, eq=False)
class FlowState:
    """Tensors (B, M, D) after `step` calls.

    Args:
        input: What the organism was given last.
        hidden: What it answered: where the next call goes on from. None to begin with its stimulus.
        residual: What its components added.

    Raises:
        ShapeError: the tensors differ in shape, or are no (B, M, D).
    """

    input: Tensor
    hidden: Tensor | None = None
    residual: Tensor | None = None
    step: int = 0

    def __post_init__(self) -> None:
        shapes = {tuple(x.shape) for x in (self.input, self.hidden, self.residual) if x is not None}
        if len(shapes) > 1 or self.input.ndim != 3:
            raise ShapeError(
                f"the tensors of a state have the shapes {sorted(shapes)}", hint="all are (B, M, D), of one shape"
            )

    def detach(self) -> Self:
        """The same values, and no gradient into the calls before."""
        return self._each(torch.Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Every tensor as Tensor.to makes it."""
        return self._each(lambda x: x.to(*args, **kwargs))

    def replace(self, **changes: Any) -> Self:
        """Another state with these fields."""
        return replace(self, **changes)

    def _each(self, f: Callable[[Tensor], Tensor]) -> Self:
        hidden = None if self.hidden is None else f(self.hidden)
        residual = None if self.residual is None else f(self.residual)
        return replace(self, input=f(self.input), hidden=hidden, residual=residual)
