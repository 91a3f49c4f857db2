"""What a search counts is what it did; a search that nobody counts imports nothing for it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from toolkit.observability import MetricsCollector
from toolkit.observability.prometheus import PrometheusMetrics
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.config_space import ConfigSpace
from toolkit.search.counting import SearchCounts
from toolkit.search.genes import Choice
from toolkit.search.measures import Measure
from toolkit.search.runner import SearchRunner, Settings
from toolkit.search.trials import Budget, Evaluated

SPACE = ConfigSpace([Choice(f"g{k}", (0, 1, 2, 3)) for k in range(3)])
MEASURES = BehaviorSpace([Measure(name="latency_s", unit="s", low=0.0, high=10.0, larger_is="worse")])
SETTINGS = Settings(seed=0, generation=8, start=16, fidelity=1, top_fidelity=2, objectives=("latency_s",))


class Stepping:
    """A clock that an evaluation moves on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def ran(counts, cache=None, clock=None):
    """A search of 40 candidates: some fail, some climb; those at fidelity 1 take 1 s, at 2 they take 4 s."""
    clock = clock or Stepping()
    done = Counter()

    def evaluate(trial):
        clock.now += {1: 1.0, 2: 4.0}[trial.fidelity]
        done[str(trial.fidelity)] += 1
        if trial.config["g2"] == 3:
            raise ZeroDivisionError("by nothing")
        quality = sum(trial.config.values()) / 9
        return Evaluated(quality, {"latency_s": float(trial.config["g0"]) * 3}, upper=quality + 0.05)

    archive = CVTArchive(MEASURES, cvt_centroids(4, 1, n_samples=200), quality_min=0.0, quality_max=1.0)
    runner = SearchRunner(SPACE, archive, SETTINGS, cache=cache, counts=counts, clock=clock)
    runner.run(evaluate, Budget(40))
    return runner, done


def by(series, name):
    return {dict(labels)[name]: value for labels, value in series.items()}


def test_counters_are_what_was_done():
    metrics, cache = MetricsCollector(), {}
    runner, done = ran(SearchCounts(metrics, target="a"), cache)
    found = metrics.snapshot()
    assert by(found.counters["search_evaluations"], "fidelity") == done
    assert sum(done.values()) == runner.evaluated
    assert by(found.counters["search_failures"], "kind") == {"ZeroDivisionError": runner.failures}
    assert runner.failures > 0
    assert sum(found.counters["search_candidates"].values()) == runner.finished == 40
    proposed, stayed = (by(found.counters[name], "emitter") for name in ("search_candidates", "search_stayed"))
    assert {name: n for name, n in proposed.items() if name != "start"} == {
        name: n for name, n in runner.bandit.pulls.items() if n
    }
    assert all(0 <= stayed.get(name, 0) <= n for name, n in proposed.items())
    assert sum(stayed.values()) >= len(runner.archive)
    seconds = {dict(labels)["fidelity"]: state for labels, state in found.histograms["search_evaluation_s"].items()}
    assert {name: (state.count, state.total) for name, state in seconds.items()} == {
        "1": (done["1"], done["1"] * 1.0), "2": (done["2"], done["2"] * 4.0),
    }  # fmt: skip
    assert not found.counters["search_cache_hits"]
    assert {dict(labels)["target"] for labels in found.counters["search_candidates"]} == {"a"}
    again = MetricsCollector()
    second = ran(SearchCounts(again), cache)[0]
    assert sum(again.snapshot().counters["search_cache_hits"].values()) == second.hits > 0
    assert second.evaluated == second.failures == runner.failures


def test_a_counted_search_is_the_same_search():
    counted, plain = ran(SearchCounts(MetricsCollector()))[0], ran(None)[0]
    assert [elite.id for elite in counted.archive] == [elite.id for elite in plain.archive]


def test_prometheus_reads_what_was_counted():
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    metrics = MetricsCollector()
    ran(SearchCounts(metrics, target="coral_tpu"))
    registry = CollectorRegistry()
    registry.register(PrometheusMetrics(metrics.snapshot))
    families = {f.name: f for f in text_string_to_metric_families(generate_latest(registry).decode())}
    evaluations = {s.labels["fidelity"]: s.value for s in families["search_evaluations"].samples}
    assert evaluations == by(metrics.snapshot().counters["search_evaluations"], "fidelity")
    count = [s for s in families["search_evaluation_s"].samples if s.name.endswith("_count")]
    assert {s.labels["fidelity"]: s.value for s in count} == evaluations
    assert all(s.labels["target"] == "coral_tpu" for s in count)


@pytest.mark.slow
def test_nothing_is_imported_for_a_search_that_is_not_counted():
    code = "import sys\nimport toolkit.search.runner\n"
    code += "print([m for m in ('toolkit.observability', 'toolkit.search.counting', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
