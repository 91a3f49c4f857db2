"""Reports of bundles as `toolkit compare` reads them, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from passes.proof import Decision, Drift, Proof
from toolkit.report.reading import Document

__all__ = ["FITTED", "document", "proof", "report"]

FITTED = {"provenance": "fitted", "memory_provenance": "counted", "energy_provenance": "data sheet"}


def proof(name: str, db: float | None = None, decision: str = "kept", **settings: Any) -> dict[str, Any]:
    """As a report holds it; `db` of None is an answer that did not move, -inf one that has no ratio."""
    drift = Drift(output="y", sqnr_db=inf if db is None else db, max_abs_error=0.0)
    found = Proof(name=name, settings=settings, kind="exact", decision=Decision(decision), drift=(drift,))
    return found.to_json()


def report(proofs: Sequence[Any] = (), operators: Sequence[tuple[str, float]] = (), **fields: Any) -> dict[str, Any]:
    interval = [1.0, 2.0]
    return {
        "model": {"name": "net", "digest": "0"},
        "stack": {"id": "a/b", "runtime": "r", "calibrated": True},
        "artifact": {"file": "model.onnx", "format": "onnx", "complete": True, "checked": ""},
        "verdict": {"outcome": "fits"},
        "after": {
            "size_bytes": 1000, "latency_s": 1.5, "latency_interval_s": interval, "memory_bytes": 1,
            "memory_interval_bytes": interval, "energy_j": 1.5, "energy_interval_j": interval,
            "extrapolated": False,
        },
        "accuracy": {"metric": None, "identical": True, "worst_sqnr_db": None, "data": "d", "samples": 9},
        "estimate": {
            "operators": [{"class": c, "latency_s": s} for c, s in operators], "fixed_s": 0.5, **FITTED,
        },
        "proofs": list(proofs),
        "versions": {},
        **fields,
    }  # fmt: skip


def document(*args: Any, **fields: Any) -> Document:
    return Document.model_validate(report(*args, **fields))
