"""Tubes: what flowed through, fading by a constant factor a step, in the memory of one tensor a tube.

S <- decay^dt S + w x,   Z <- decay^dt Z + w,   recall = S / Z
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from toolkit.errors import DescriptorError
from toolkit.organism.errors import ShapeError

__all__ = ["TubeNetwork"]

_NOTHING_LEFT = 1e-12


class TubeNetwork(nn.Module):
    """Exponential memories of several decays. Weights and decays are host numbers, so `recall` waits for no device.

    Args:
        decay: Of each tube, in (0, 1): what is left of it a step later.
        detach: Whether what is stored is cut from its gradient. Otherwise `recall` carries it, as far back as S goes.

    Raises:
        DescriptorError: a decay is not in (0, 1), or there are none.
    """

    def __init__(self, decay: Sequence[float], *, detach: bool = True) -> None:
        super().__init__()
        self.decay = tuple(float(x) for x in decay)
        if not self.decay or not all(0 < x < 1 for x in self.decay):
            raise DescriptorError(f"decays {self.decay}", hint="one or more, each above 0 and below 1")
        self.detach = detach
        self._sums: Tensor | None = None  # (n, ...)
        self._weights = [0.0] * len(self.decay)
        self._passed = 0

    def store(self, data: Tensor, weight: float = 1.0) -> None:
        """Add `data`, of the shape of what was stored before.

        Raises:
            ValueError: `weight` is not positive and finite.
            ShapeError: the shape is another one.
        """
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"a weight is positive and finite, got {weight}")
        if self._sums is not None and self._sums.shape[1:] != data.shape:
            raise ShapeError(
                f"{tuple(data.shape)} after {tuple(self._sums.shape[1:])}", hint="call clear() where shapes change"
            )
        kept = data.detach() if self.detach else data
        factors = self._left()
        if self._sums is None:
            self._sums = weight * kept.expand(len(self.decay), *kept.shape)
        else:
            fading = self._sums.new_tensor(factors).view(-1, *[1] * data.ndim)
            self._sums = fading * self._sums.to(kept) + weight * kept
        self._weights = [f * z + weight for f, z in zip(factors, self._weights, strict=True)]
        self._passed = 0

    def recall_each(self) -> Tensor | None:
        """(n, ...) of each tube; None where nothing was stored, or less than 1e-12 of it is left in some tube."""
        left = [f * z for f, z in zip(self._left(), self._weights, strict=True)]
        if self._sums is None or min(left) < _NOTHING_LEFT:
            return None
        return self._sums / self._sums.new_tensor(self._weights).view(-1, *[1] * (self._sums.ndim - 1))

    def recall(self) -> Tensor | None:
        """The mean over all tubes."""
        each = self.recall_each()
        return None if each is None else each.mean(0)

    def tick(self, n: int = 1) -> None:
        """Let `n` steps pass.

        Raises:
            ValueError: `n` is negative.
        """
        if n < 0:
            raise ValueError(f"time does not run backwards: {n} steps")
        self._passed += n

    def clear(self) -> None:
        """Forget all."""
        self._sums, self._weights, self._passed = None, [0.0] * len(self.decay), 0

    def _left(self) -> list[float]:
        return [float(x**self._passed) for x in self.decay]

    def get_extra_state(self) -> dict[str, Any]:
        sums = None if self._sums is None else self._sums.detach().cpu()
        return {"sums": sums, "weights": list(self._weights), "passed": self._passed, "decay": list(self.decay)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if list(self.decay) != list(state["decay"]):
            raise ShapeError(
                f"a memory of decays {state['decay']} for one of {list(self.decay)}", hint="make it of equal decays"
            )
        self._sums, self._passed = state["sums"], int(state["passed"])
        self._weights = [float(x) for x in state["weights"]]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if self._sums is not None:
            self._sums = fn(self._sums)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
