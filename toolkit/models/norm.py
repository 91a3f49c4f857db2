"""Layer normalization: torch's own operator, written out in means and squares where the model is exported."""

from __future__ import annotations

from torch import Tensor, nn

from toolkit.models.blueprints.written_norm import WrittenNorm
from toolkit.models.exporting import exporting

__all__ = ["Norm"]


class Norm(WrittenNorm):
    """nn.LayerNorm over one axis of `features`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if exporting() else nn.LayerNorm.forward(self, x)
