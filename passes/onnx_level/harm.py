"""Which layers to leave in float first: those whose quantization alone moves the answers most."""

from __future__ import annotations

from passes.context import Context
from passes.onnx_level.effects import measure
from passes.onnx_level.switchboard import Switchboard
from passes.program import Program

__all__ = ["most_harmful"]

_SAMPLES = 4  # each takes a run for every layer; the order of the worst settles within a few


def most_harmful(before: Program, after: Program, ctx: Context) -> list[str]:
    """Names of the nodes of `before` that `after` computes in integers, the most harmful first."""
    data = ctx.data if ctx.data is not None else ctx.proof_data(before)
    effects = measure(Switchboard(before, after), data.take(_SAMPLES), without=0, progress=ctx.progress)
    return [effect.unit.node for effect in effects.worst_first if effect.unit.node]
