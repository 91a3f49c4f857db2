"""TensorRT: an engine can only be built on the device, so the artefact is the ONNX and the command that builds it."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.backends.onnx_file import OnnxFile

__all__ = ["TensorRT"]


@dataclass(frozen=True)
class TensorRT(OnnxFile):
    """The file is in the opset that the stack's parser reads; the profile's next step is the `trtexec` command."""

    name: str = "tensorrt"
