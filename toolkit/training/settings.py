"""How a module is trained, apart from what it is trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from targets.errors import InvalidInput
from toolkit.training.precision import Kind

__all__ = ["Settings"]

_IDLE = frozenset({"checkpoint_s", "longest_s"})
"""Settings that decide no step."""

_LATER = {"recompute": False}
"""Settings that came later: at these values they decide nothing, and weights of before keep their keys."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a module is trained.

    Args:
        batch: Samples in a batch at most, of each process.
        weight_decay: Of matrices and kernels; biases, norms and scales have none.
        warm_up: Share of the steps in which the rate rises.
        patience: Epochs without a better score after which training stops; 0 never stops early.
        clip: Largest norm of the gradient; longer ones are shortened to it.
        amp: What a GPU multiplies in, float16 where it lacks bfloat16; a CPU computes in float32.
        held_out: Share of the data that judges instead of training, where there are no validation data. Where that is
            less than a sample, all of them do both; with 0 none judges, and the last weights are the result.
        checkpoint_s: Seconds between checkpoints; there is one after each epoch as well.
        device: "cpu", or "cuda" for a GPU.
        threads: Of the CPU. More are faster, but on other machines they may round in other ways.
        longest_s: Seconds after which training ends as if it had come to its last epoch; None never ends early.
        recompute: Compute inner values again for the gradient instead of holding them: see `recomputing`.
    """

    batch: int = 64
    weight_decay: float = 1e-2
    warm_up: float = 0.05
    patience: int = 10
    clip: float = 1.0
    amp: Kind = "bfloat16"
    held_out: float = 0.1
    checkpoint_s: float = 60.0
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    recompute: bool = False
    longest_s: float | None = None

    def __post_init__(self) -> None:
        has_time = self.longest_s is None or self.longest_s >= 0
        if min(self.batch, self.threads) < 1 or not has_time or self.clip <= 0 or not 0 <= self.held_out < 1:
            raise InvalidInput(
                f"training cannot go by {self}",
                hint="batch and threads from 1, clip above 0, held_out from 0 to below 1, longest_s from 0",
            )

    def deciding(self) -> dict[str, Any]:
        """What decides the weights: part of a training's key."""
        return {name: value for name, value in asdict(self).items()
                if name not in _IDLE and not (name in _LATER and value == _LATER[name])}  # fmt: skip
