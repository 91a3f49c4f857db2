"""What geometry says of a model, on real samples: its layers, its attention, its symmetry, and what rounding does."""

from toolkit.analyzing.analysis import Analysis, LayerReport
from toolkit.analyzing.model import SAMPLES, analyze_model

__all__ = ["SAMPLES", "Analysis", "LayerReport", "analyze_model"]
