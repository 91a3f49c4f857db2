"""A training that is watched: what is counted, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.observability import MetricsCollector, Span, Tracer
from toolkit.training.observing import Observer
from toolkit.training.organism.recipe import OrganismRecipe
from toolkit.training.organism.session import train_organism
from toolkit.training.recipe import TrainRecipe
from toolkit.training.session import train


def test_steps_samples_and_spans_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", image=rng.random((50, 1, 8, 8), np.float32), labels=np.arange(50) % 10)
    recipe = TrainRecipe(model="digits", data=str(tmp_path / "d.npz"), epochs=2, batch=16, held_out=0.2)
    spans: list[Span] = []
    metrics, ticks = MetricsCollector(), iter(range(1000))
    observer = Observer(metrics, Tracer(spans.append), clock=lambda: float(next(ticks)))
    watched = train(recipe, folder=tmp_path / "watched", watcher=observer)
    alone = train(recipe, folder=tmp_path / "alone")
    assert watched.report == alone.report
    seen = metrics.snapshot()
    assert seen.counters["training_steps"][()] == 6  # 40 samples in three batches, twice
    assert seen.counters["training_samples"][()] == 80
    (steps,) = seen.histograms["training_step_s"].values()
    assert (steps.count, steps.low, steps.high) == (6, 1.0, 1.0)
    assert seen.gauges["training_loss"][()] == watched.report["epochs"][-1]["loss"]
    assert seen.gauges["training_metric"][()] == watched.report["epochs"][-1]["metric"]
    assert [(span.name, span.attributes["epoch"], span.attributes["position"]) for span in spans] == [
        ("step", epoch, position) for epoch in (0, 1) for position in range(3)
    ]
    assert sum(int(span.attributes["samples"]) for span in spans) == 80


@pytest.mark.slow
def test_two_organisms_do_not_mix(tmp_path: Path) -> None:
    recipe = OrganismRecipe(organism="xor", epochs=1)
    one, other = MetricsCollector(), MetricsCollector()
    train_organism(recipe, folder=tmp_path / "one", watcher=Observer(one))
    assert other.snapshot().counters == {}
    assert one.snapshot().counters["training_steps"][()] > 0
