"""What experts are made of."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Layers"]


class Layers(NamedTuple):
    """The two layers of each of E experts, and what lies between them; biases both or neither."""

    w_in: Tensor
    """(E, hidden, d)."""

    b_in: Tensor | None
    """(E, hidden)."""

    w_out: Tensor
    """(E, d, hidden)."""

    b_out: Tensor | None
    """(E, d)."""

    activation: str

    @property
    def experts(self) -> int:
        return self.w_in.shape[0]
