"""How large the ablations are: sizes of networks, steps and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["CPU", "H100", "PRESETS", "QUICK", "SMOKE", "Device", "Preset"]

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes.

    Args:
        width, heads, layers: Of the encoder; `hidden` features at each position.
        context: Characters that the language model reads at once.
        steps: Updates of a training on text; `toy_steps` of one on a toy task.
        medium: Steps between two measurements of fitness; deaths are decided ten times as rarely, or at each of them
            where the training is too short for that.
        windows: Of text to learn from at most; `judged` of those that judge.
    """

    name: str
    seeds: int
    width: int
    heads: int
    layers: int
    hidden: int
    context: int
    batch: int
    steps: int
    toy_steps: int
    medium: int
    windows: int
    judged: int
    rate: float = 3e-3
    device: Device = "cpu"
    text: str | None = None

    def to_data(self) -> dict[str, Any]:
        """As results keep it."""
        return asdict(self)


SMOKE = Preset(name="smoke", seeds=1, width=16, heads=2, layers=1, hidden=32, context=16, batch=8, steps=16,
               toy_steps=16, medium=4, windows=128, judged=8)  # fmt: skip
QUICK = Preset(name="quick", seeds=5, width=32, heads=4, layers=2, hidden=64, context=32, batch=16, steps=300,
               toy_steps=300, medium=15, windows=20_000, judged=64)  # fmt: skip
CPU = Preset(name="cpu", seeds=10, width=64, heads=4, layers=2, hidden=128, context=64, batch=16, steps=2000,
             toy_steps=600, medium=100, windows=40_000, judged=128)  # fmt: skip
H100 = Preset(name="h100", seeds=5, width=512, heads=8, layers=6, hidden=2048, context=512, batch=64, steps=5000,
              toy_steps=600, medium=100, windows=1_000_000, judged=256, rate=6e-4, device="cuda")  # fmt: skip

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in (SMOKE, QUICK, CPU, H100)}
