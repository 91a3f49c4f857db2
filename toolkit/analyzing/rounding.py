"""How far a target's integers move each layer, and whether their ranges hold it."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

from passes.context import Context
from passes.dataset import Dataset
from passes.onnx_level.switchboard import Switchboard
from passes.recipe import recipe_for
from passes.running import run
from toolkit.analyzing.activations import rows_of_layer
from toolkit.analyzing.analysis import Analysis, LayerReport, Progress
from toolkit.cache import DiskCache, fingerprint
from toolkit.sources import Source

if TYPE_CHECKING:
    from torch import Tensor

    from targets.stack import Stack
    from toolkit.geometry.analysis.tapping import Graph

__all__ = ["add_rounding"]


def add_rounding(
    result: Analysis,
    graph: Graph,
    source: Source,
    stack: Stack,
    calibration: Dataset,
    data: Dataset,
    progress: Progress,
) -> None:
    """What the target's integers do to each layer."""
    import torch

    from toolkit.geometry.analysis.quantization_stability import RangeUse, displacement

    ctx = Context(stack=stack, data=calibration, progress=progress)
    recipe = recipe_for(stack, source.program.level)
    made = run(recipe, source.program, ctx, cache=DiskCache(), fingerprint=fingerprint())
    program = made.program.named or made.program
    board = Switchboard(program.floating, program) if program.floating is not None else None
    if board is None or not board.units:
        refused = [f"{proof.name}: {proof.reason}" for proof in made.proofs if proof.reason and not proof.changed]
        why = f" ({'; '.join(refused)})" if refused else ""
        result.notes.append(f"on {stack.id} no layer is rounded to integers{why}")
        return
    names = [unit.name for unit in board.units]
    uses = {u.name: RangeUse(*u.rounding.bounds, u.rounding.step) for u in board.units if u.rounding is not None}
    tensors = list(dict.fromkeys(board.seen(unit) for unit in board.units))
    pairs: dict[str, tuple[list[Tensor], list[Tensor]]] = {unit.name: ([], []) for unit in board.units}
    for done, sample in enumerate(data, start=1):
        truth, moved = (board.run(sample, on, tensors) for on in ((), names))
        for unit in board.units:
            seen = board.seen(unit)
            for values, kept in zip((truth[seen], moved[seen]), pairs[unit.name], strict=True):
                kept.append(rows_of_layer(values, unit.op_type))
            if unit.name in uses:
                uses[unit.name].add(torch.from_numpy(truth[seen]))
        progress("rounding", done / len(data))
    known = {layer.tensor: layer for layer in result.layers} | {layer.name: layer for layer in result.layers}
    for unit in board.units:
        before, after = (torch.cat(rows) for rows in pairs[unit.name])
        layer = known.get(unit.tensor) or known.get(unit.name)
        if layer is None:
            layer = LayerReport(name=unit.name, operator=unit.op_type, tensor=unit.tensor,
                                place=graph.place(unit.tensor), width=before.shape[1], dimension=nan)  # fmt: skip
            result.layers.append(layer)
        layer.displacement, layer.range_use = displacement(before, after), uses.get(unit.name)
