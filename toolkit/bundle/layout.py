"""Names of the files that every bundle has, and the version of their order."""

from __future__ import annotations

__all__ = ["GRAPH", "MANIFEST", "NAMES", "SCHEMA", "SIGNATURE", "TIMINGS"]

SCHEMA = "toolkit.bundle/1"
MANIFEST, SIGNATURE, TIMINGS = "manifest.json", "manifest.sig", "timings.json"

GRAPH = "model.onnx"
"""The graph that every artefact is lowered from, beside it."""

NAMES = "names.json"
"""What the artefact's operators were called, where a pass has taken the names out of it."""
