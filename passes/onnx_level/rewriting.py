"""Apply rules of onnxscript's rewriter to a copy of a graph, keeping the source line of what was rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from passes.program import Program
from targets.graph import SOURCE_KEY

__all__ = ["rewrite"]


def rewrite(program: Program, rules: Sequence[Any]) -> Program:
    """The program after `rules` were applied until none matches, and what they left dead was removed."""
    from onnx_ir.passes import common
    from onnxscript.rewriter import RewritePass

    model = program.clone()
    source = {v.name: node.metadata_props[SOURCE_KEY] for node in model.graph for v in node.outputs
              if SOURCE_KEY in node.metadata_props}  # fmt: skip
    RewritePass(list(rules))(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.NameFixPass()(model)
    for node in model.graph:
        node.metadata_props.pop("pkg.onnxscript.rewriter.rule_name", None)
        for value in node.outputs:
            if SOURCE_KEY not in node.metadata_props and value.name in source:
                node.metadata_props[SOURCE_KEY] = source[value.name]
    return program.with_model(model)
