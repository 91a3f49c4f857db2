"""What layers are called: by the modules of the user's network, as `toolkit explain` and the report call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.analyzing.analysis import Analysis
    from toolkit.geometry.analysis.tapping import Graph

__all__ = ["call_by_module"]


def call_by_module(result: Analysis, graph: Graph) -> None:
    """Layers and attentions of one module each are called by it; several of one, by their nodes as well.

    Those keep the names of their nodes of which the graph does not say what module they are.
    """
    for layer, name in zip(result.layers, _called([layer.name for layer in result.layers], graph), strict=True):
        layer.name = name
    result.heads = dict(zip(_called(list(result.heads), graph), result.heads.values(), strict=True))


def _called(nodes: Sequence[str], graph: Graph) -> list[str]:
    modules = [graph.modules.get(node, "") for node in nodes]
    counts = Counter(modules)
    return [node if not module else module if counts[module] == 1 else f"{module} ({node})"
            for node, module in zip(nodes, modules, strict=True)]  # fmt: skip
