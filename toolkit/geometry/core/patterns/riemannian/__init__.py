"""Riemannian structure: metrics as fields, their curvature and their geodesics."""

from toolkit.geometry.core.patterns.riemannian import metrics
from toolkit.geometry.core.patterns.riemannian.curvature import Curvature
from toolkit.geometry.core.patterns.riemannian.manifold import RiemannianManifold
from toolkit.geometry.core.patterns.riemannian.metric_net import MetricNet

__all__ = ["Curvature", "MetricNet", "RiemannianManifold", "metrics"]
