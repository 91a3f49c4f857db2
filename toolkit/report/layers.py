"""Where the answers moved, layer by layer: a first look for the report; `toolkit explain` looks closer."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from passes.dataset import Dataset
from passes.onnx_level.causes import causes
from passes.onnx_level.effects import measure
from passes.onnx_level.switchboard import Switchboard
from passes.program import Program
from targets.errors import InvalidInput, MissingDependency

__all__ = ["layer_rows"]

_SAMPLES = 2  # each takes a run for every layer


def layer_rows(
    program: Program, data: Dataset, progress: Callable[[str, float], None] = lambda step, done: None
) -> list[dict[str, Any]]:
    """Of a quantized program, each layer with the SQNR behind it and what it does alone.

    Empty where nothing differs, or the graph cannot be taken apart: the bundle is whole without the picture, and
    `toolkit explain` says what stood in the way. A ratio without noise is None.
    """
    if program.floating is None:
        return []
    board = Switchboard(program.floating, program)
    try:
        effects = measure(board, data.take(_SAMPLES), without=0, progress=progress) if board.units else None
    except (InvalidInput, MissingDependency):
        effects = None
    if effects is None:
        return []
    return [
        {
            "layer": effect.unit.name,
            "operator": effect.unit.op_type,
            "source": effect.unit.source,
            "tensor_sqnr_db": _finite(effect.tensor_db),
            "alone_sqnr_db": _finite(effect.alone_db),
            "share_of_noise": round(effect.share, 4),
            "causes": [cause.text for cause in causes(effect)],
        }
        for effect in effects.effects
        if effect.unit.op_type != "input"
    ]


def _finite(value: float) -> float | None:
    return round(value, 2) if isfinite(value) else None
