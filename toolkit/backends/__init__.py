"""Lower the final graph to what a stack runs, and run it here where that is possible. One registry."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.backends.ahead_of_time.backend import AheadOfTime
from toolkit.backends.backend import Artifact, Backend, Runnable
from toolkit.backends.litert import LiteRT
from toolkit.backends.onnxruntime import OnnxRuntime
from toolkit.backends.tensorrt import TensorRT
from toolkit.backends.webgpu import WebGPU

__all__ = ["BACKENDS", "Artifact", "Backend", "Runnable"]

BACKENDS: Mapping[str, Backend] = {b.name: b for b in (OnnxRuntime(), WebGPU(), TensorRT(), LiteRT(), AheadOfTime())}
"""Every backend, by the name that profiles use."""
