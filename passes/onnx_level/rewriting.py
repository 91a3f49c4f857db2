"""Apply rules of onnxscript's rewriter to a copy of a graph, keeping the source line of what was rewritten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from passes.contract import PassFailed
from passes.origins import inherit_origin
from passes.program import Program
from passes.quiet import quiet_libraries
from targets.errors import ToolkitError

__all__ = ["RULE_KEY", "rewrite", "rewriting_errors", "typed"]

RULE_KEY = "pkg.onnxscript.rewriter.rule_name"
"""Node metadata in which the rewriter notes what it did; nobody reads it."""


@contextmanager
def rewriting_errors() -> Iterator[None]:
    """Turn whatever the rewriting libraries raise on an exotic graph into PassFailed, and keep them quiet."""
    try:
        with quiet_libraries():
            yield
    except (ToolkitError, MemoryError):
        raise
    except Exception as error:  # onnx-ir and onnxscript raise anything: KeyError, ValueError, their own
        text = " ".join(str(error.__cause__ or error).split())[:200]
        raise PassFailed(
            f"the rewriter cannot take this graph: {type(error).__name__}: {text}",
            hint="export the model again, with another opset if you can; -vv shows the whole trace",
        ) from error


def rewrite(program: Program, rules: Sequence[Any]) -> Program:
    """The program after `rules` were applied until none matches, and what they left dead was removed.

    Raises:
        PassFailed: the rewriter cannot take this graph.
    """
    from onnx_ir.passes import common
    from onnxscript.rewriter import RewritePass

    model = program.clone()
    origins = {v.name: dict(node.metadata_props) for node in model.graph for v in node.outputs}
    with rewriting_errors():
        if rules:
            RewritePass(list(rules))(model)
        common.RemoveUnusedNodesPass()(model)
        common.RemoveUnusedOpsetsPass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.NameFixPass()(model)
    for node in model.graph:
        node.metadata_props.pop(RULE_KEY, None)
        for value in node.outputs:
            inherit_origin(node, origins.get(value.name, {}))
    return program.with_model(model)


def typed(program: Program) -> Program:
    """The same graph with the types and shapes that inference finds, in a copy."""
    from onnx_ir.passes.common import ShapeInferencePass

    with rewriting_errors():
        return program.with_model(ShapeInferencePass()(program.clone()).model)
