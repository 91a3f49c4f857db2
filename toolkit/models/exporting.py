"""Whether a model is being written down for another runtime: then it spells out what those have no operators for."""

from __future__ import annotations

import torch

from toolkit.models.blueprints.sizes import tracing

__all__ = ["exporting"]


def exporting() -> bool:
    """True in torch.export, torch.onnx.export and torch.jit.trace; false in torch.compile."""
    return torch.compiler.is_exporting() or tracing()
