"""Attention over adaptive tiles: a choice of scores, a bound on the error, heat flow, and what it was like."""

from toolkit.geometry.neural.attention.certificate import Audit, audit
from toolkit.geometry.neural.attention.metrics import AttentionMetrics
from toolkit.geometry.neural.attention.quantum_geometric import Plan, QuantumGeometricAttention
from toolkit.geometry.neural.attention.scores import Score, ScoreName, make_score
from toolkit.geometry.neural.attention.tiles import AttentionState

__all__ = [
    "AttentionMetrics", "AttentionState", "Audit", "Plan", "QuantumGeometricAttention", "Score", "ScoreName", "audit",
    "make_score",
]  # fmt: skip
