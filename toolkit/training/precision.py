"""Mixed precision: what products are computed in, and the scale that keeps small float16 gradients from vanishing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Kind", "Precision", "kind_for"]

Kind = Literal["bfloat16", "float16", "float32"]

_FIRST_SCALE = 2.0**16
_SMALLEST_SCALE = 2.0**-14
"""A gradient that overflows float16 at this scale would overflow float32 nearly as soon: it is no matter of scale."""


def kind_for(device: torch.device, asked: Kind) -> Kind:
    """What `device` can do of what was asked for: float16 where a GPU has no bfloat16, float32 on a processor."""
    if device.type != "cuda":
        return "float32"
    if asked == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return asked


class Precision:
    """How one training computes. Weights and their updates stay in float32.

    Source: Micikevicius et al. 2018, arXiv:1710.03740.
    """

    def __init__(self, device: torch.device, kind: Kind) -> None:
        self.kind = kind
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=kind == "float16")

    def computing(self) -> AbstractContextManager[Any]:
        """The block in which the loss is computed."""
        if self.kind == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=getattr(torch, self.kind))

    def backward(self, loss: Tensor) -> None:
        """Gradients of the scaled loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def clipped(self, optimizer: torch.optim.Optimizer, model: nn.Module, largest: float) -> float:
        """Norm of the gradient as it would be unscaled; it is then shortened to `largest`."""
        self._scaler.unscale_(optimizer)
        return float(nn.utils.clip_grad_norm_(model.parameters(), largest))

    def step(self, optimizer: torch.optim.Optimizer, norm: float) -> bool:
        """Update the weights. In float16 a norm that is not finite is a scale too large: the step is left out and the
        scale halved.

        Returns:
            Whether training can go on: False where the norm is not finite for another reason.
        """
        if not isfinite(norm) and not self._may_shrink:
            return False
        self._scaler.step(optimizer)
        self._scaler.update()
        return True

    @property
    def _may_shrink(self) -> bool:
        return self.kind == "float16" and float(self._scaler.get_scale()) > _SMALLEST_SCALE

    def state(self) -> dict[str, Any]:
        """For a checkpoint; empty where nothing is scaled."""
        return self._scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        if state:
            self._scaler.load_state_dict(state)
