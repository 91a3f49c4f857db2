"""Compute at compile time what does not depend on the input, and drop what nothing reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from passes.context import Context
from passes.contract import Kind, Pass
from passes.onnx_level.branch_shares import note_branch_shares
from passes.onnx_level.rewriting import RULE_KEY, rewriting_errors
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FoldConstants", "fold"]

_HIDDEN = "toolkit.hidden"

_READ_ELEMENTS = 8192
"""Operators that read a larger constant stay as they are."""

_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_MOVES = frozenset({"Concat", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Constant folding, dead code, duplicate constants and identities, by onnxscript's optimizer.

    Results of more than `max_elements` elements stay computed, so that an expanded constant does not bloat the file;
    and so does one value repeated so often that nothing computed from it would be folded: causal masks begin with it.
    Branches that are left are noted with how often the calibration samples take them, for whoever prices them.
    """

    max_elements: int = 262_144
    kind = Kind.EXACT
    needs = frozenset({"exported"})
    gives = frozenset({"constants_folded"})
    prepares = True

    def apply(self, program: Program, ctx: Context) -> Program:
        model = program.clone()
        fold(model, self.max_elements)
        if ctx.data is not None:
            note_branch_shares(model, ctx.data)
        return program.with_model(model)


def fold(model: ir.Model, max_elements: int) -> None:
    """Fold and clean `model` in place.

    Raises:
        PassFailed: the optimizer cannot take this graph.
    """
    from onnx_ir.passes import Sequential, common
    from onnxscript.optimizer import fold_constants_ir

    outputs = [value.name for value in model.graph.outputs]
    clean = Sequential(
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.OutputFixPass(),  # an identity between two outputs was more than decoration
        common.NameFixPass(),
        common.ShapeInferencePass(),  # later passes read types; found once, they change no graph again
    )
    with rewriting_errors():
        common.InlinePass()(model)
        fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=_READ_ELEMENTS,
            output_size_limit=max_elements,
            should_fold=_wanted,
        )
        with _kept_copies(model):
            clean(model)
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    for node in model.graph.all_nodes():
        node.metadata_props.pop(RULE_KEY, None)


def _wanted(node: ir.Node) -> bool | None:
    """False for what is to stay computed, True for what is not; None leaves it to the optimizer."""
    if _moves_recurrent_weights(node):
        return True
    shape = node.outputs[0].shape
    if node.op_type != "Expand" or node.domain or shape is None or not shape.is_static():
        return None
    return False if prod(shape.numpy()) > _READ_ELEMENTS else None


def _moves_recurrent_weights(node: ir.Node) -> bool:
    """Whether a node brings weights of a recurrent layer into ONNX's order, of any size, and nothing else reads them.

    PyTorch's exporter leaves this to be done at run time, and backends without it would have to refuse the layer.
    """
    if node.domain or node.op_type not in _MOVES:
        return False
    uses = [use for value in node.outputs for use in value.uses()]
    weights = (1, 2, 3)
    return bool(uses) and all(
        use.idx in weights if use.node.op_type in _RECURRENT else _moves_recurrent_weights(use.node) for use in uses
    )


@contextmanager
def _kept_copies(model: ir.Model) -> Iterator[None]:
    """Hide the identities that copy a value of the graph outside to an output of a branch.

    onnx-ir takes them for superfluous and then fails, since a value cannot be the output of two graphs.
    """
    copies = [node for node in model.graph.all_nodes() if node.op_type == "Identity" and _leaves_a_branch(node)]
    for node in copies:
        node.domain = _HIDDEN
    try:
        yield
    finally:
        for node in copies:
            node.domain = ""
        model.opset_imports.pop(_HIDDEN, None)


def _leaves_a_branch(node: ir.Node) -> bool:
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    home = producer.graph if producer is not None else source.graph if source is not None else None
    return node.outputs[0].is_graph_output() and home is not node.graph
