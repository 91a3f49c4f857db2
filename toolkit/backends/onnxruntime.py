"""ONNX for onnxruntime: the graph as it is, run here by the same library that runs it on the board."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.backends.onnx_file import OnnxFile

__all__ = ["OnnxRuntime"]


@dataclass(frozen=True)
class OnnxRuntime(OnnxFile):
    """The file is the artefact, unless the stack's own runtime wants it converted."""

    name: str = "onnxruntime"
