"""What a report says, as plain data: report.json, and the one source of the page, the terminal and `explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any

from passes.proof import Decision, MetricChange, Proof
from passes.recipe import Recipe
from targets.estimate import Estimate
from targets.stack import Stack
from targets.target import Target
from targets.verdict import Verdict
from toolkit.backends.backend import Artifact

__all__ = ["accuracy_of", "build_report"]


def build_report(
    *,
    model: Mapping[str, Any],
    target: Target,
    stack: Stack,
    recipe: Recipe,
    proofs: Sequence[Proof],
    before: Estimate,
    after: Estimate,
    verdict: Verdict,
    artifact: Artifact,
    sizes_bytes: tuple[int, int],
    versions: Mapping[str, str],
    layers: Sequence[Mapping[str, Any]] = (),
    overall: MetricChange | None = None,
) -> dict[str, Any]:
    """The document. `before` prices the float model on the same stack, as it stands; `layers` are those that differ.

    `overall` is the metric from the source to the artefact, where passes that train stand between: their proofs start
    anew.
    """
    return {
        "schema": "toolkit.report/1",
        "model": dict(model),
        "target": {"name": target.name, "title": target.title},
        "stack": {"id": stack.id, "runtime": stack.describe(), "calibrated": stack.latency.calibrated,
                  "provenance": stack.provenance},
        "artifact": artifact.to_json(),
        "verdict": verdict.to_json(),
        "before": _summary(before, sizes_bytes[0]),
        "after": _summary(after, sizes_bytes[1]),
        "accuracy": accuracy_of(proofs, overall),
        "recipe": {"name": recipe.name, "passes": recipe.to_data()},
        "proofs": [proof.to_json() for proof in proofs],
        "layers": [dict(row) for row in layers],
        "estimate": after.to_json(),
        "versions": dict(versions),
    }  # fmt: skip


def _summary(estimate: Estimate, size_bytes: int) -> dict[str, Any]:
    return {
        "size_bytes": size_bytes,
        "latency_s": estimate.latency_s,
        "latency_interval_s": list(estimate.latency_interval_s),
        "memory_bytes": estimate.peak_memory_bytes,
        "memory_interval_bytes": list(estimate.memory_interval_bytes),
        "energy_j": estimate.energy_j,
        "energy_interval_j": list(estimate.energy_interval_j),
        "extrapolated": estimate.extrapolated,
    }


def accuracy_of(proofs: Sequence[Proof], overall: MetricChange | None = None) -> dict[str, Any]:
    """How far the answers have moved: the metric after the last pass that stands, and the worst output of any.

    `worst_sqnr_db` is None where the answers are identical, and where they are not finite.
    """
    standing = [p for p in proofs if p.decision in (Decision.KEPT, Decision.NARROWED) and p.drift]
    last = standing[-1] if standing else None
    metric = overall or (last.metric if last else None)
    worst = min((p.worst_sqnr_db for p in standing), default=inf)
    return {
        "metric": metric.to_json() if metric else None,
        "identical": worst == inf,
        "worst_sqnr_db": round(worst, 2) if isfinite(worst) else None,
        "data": last.data if last else "",
        "samples": last.samples if last else 0,
    }
