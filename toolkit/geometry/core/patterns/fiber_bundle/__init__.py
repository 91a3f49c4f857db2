"""Fibre bundles: over charts, with a connection, and over graphs, with edge maps."""

from toolkit.geometry.core.patterns.fiber_bundle.chart_bundle import ChartBundle, FiberChart, LocalChart, Patch
from toolkit.geometry.core.patterns.fiber_bundle.graph_bundle import GraphBundle
from toolkit.geometry.core.patterns.fiber_bundle.instances import (
    MobiusBundle,
    MonopoleBundle,
    TangentBundle,
    TrivialBundle,
)

__all__ = [
    "ChartBundle",
    "FiberChart",
    "GraphBundle",
    "LocalChart",
    "MobiusBundle",
    "MonopoleBundle",
    "Patch",
    "TangentBundle",
    "TrivialBundle",
]
