"""Ricci flow of space forms, conformal and sampled metrics, and of the edges of a graph."""

from toolkit.geometry.neural.flow.geometric_flow.flow import (
    FlowMetrics,
    compute_ricci_tensor,
    flow_step,
    measure,
    ricci_flow,
)
from toolkit.geometry.neural.flow.geometric_flow.graphs import forman_curvature, graph_ricci_flow, ollivier_curvature
from toolkit.geometry.neural.flow.geometric_flow.metrics_of_flow import (
    ConformalMetric,
    FlowMetric,
    SpaceForms,
    sphere_volume,
)
from toolkit.geometry.neural.flow.geometric_flow.singularities import (
    Singularities,
    detect_singularities,
    normalize_flow,
)

__all__ = [
    "ConformalMetric",
    "FlowMetric",
    "FlowMetrics",
    "Singularities",
    "SpaceForms",
    "compute_ricci_tensor",
    "detect_singularities",
    "flow_step",
    "forman_curvature",
    "graph_ricci_flow",
    "measure",
    "normalize_flow",
    "ollivier_curvature",
    "ricci_flow",
    "sphere_volume",
]
