"""Whether a model is being written down for another runtime: then operators are spelled out in plain torch."""

from __future__ import annotations

import torch

__all__ = ["exporting"]


def exporting() -> bool:
    """True in torch.export, torch.onnx.export and torch.jit.trace; false in torch.compile, which keeps operators."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
