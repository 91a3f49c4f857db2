"""Service levels to start from: what they demand of what was recorded, and files of one's own."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path

import pytest

from toolkit.errors import InvalidInput, UsageError
from toolkit.observability import Event, evaluate
from toolkit.observability.default_levels import load_levels

RECORDED = {"step_latency_p99_s": 0.2, "throughput_samples_s": 100.0, "memory_budget_bytes": 1e9}


@pytest.mark.parametrize(("name", "metric", "objective", "good", "bad"), [
    ("step latency", "step_latency_s", 0.99, 0.25, 0.2501),
    ("throughput", "throughput_samples_s", 0.95, 90.0, 89.9),
    ("peak memory", "peak_memory_bytes", 0.999, 1e9, 1e9 + 1),
    ("failed evaluations", "evaluation_failed", 0.98, 0.0, 1.0),
    ("predicted latency", "latency_relative_error", 0.90, 0.2, 0.21),
])  # fmt: skip
def test_what_is_demanded(name: str, metric: str, objective: float, good: float, bad: float) -> None:
    levels = load_levels()
    assert len(levels) == 5
    slo = levels[name].against(RECORDED)
    assert (slo.metric, slo.objective, slo.is_good(good), slo.is_good(bad)) == (metric, objective, True, False)
    assert round((1 - slo.objective) * slo.window) >= 10
    events = [Event(metric, float(i), bad) for i in range(20)]
    (report,) = evaluate([slo], events)
    assert report.state == "alert"  # whatever the objective, when nothing is good


@pytest.mark.parametrize("found", [None, 0.0, -1.0, nan, inf])
def test_a_baseline_that_says_nothing(found: float | None) -> None:
    recorded = {} if found is None else {"step_latency_p99_s": found}
    levels = load_levels()
    with pytest.raises(UsageError, match=f"step latency: the baseline step_latency_p99_s is {found}"):
        levels["step latency"].against(recorded)
    assert levels["failed evaluations"].against(recorded).threshold == 0


def test_mistakes_of_a_file_have_lines(tmp_path: Path) -> None:
    file = tmp_path / "levels.yaml"
    good = "  - {name: a, metric: m, op: <=, threshold: 1, objective: 0.9, window_events: 5}\n"
    file.write_text(
        "levels:\n"
        "  - {name: a, metric: m, op: <, threshold: 1, objective: 1, window_events: 5}\n"
        "  - {name: b, metric: m, op: <=, objective: 0.9, window_events: 5}\n"
        "  - {name: c, metric: m, op: <=, times: 2, objective: 0.9, window_events: 5}\n"
        "  - {name: d, metric: m, op: <=, threshold: 1, times: 2, baseline: x, objective: 0.9, window_events: 5}\n"
        "  - {name: e, metric: m, op: <=, treshold: 1, objective: 0.9, window_events: 5}\n"
    )
    with pytest.raises(InvalidInput, match="has 6 mistakes") as caught:
        load_levels(file)
    for line, said in ((2, "levels.0.op"), (2, "levels.0.objective"), (3, "levels.1"), (4, "levels.2"), (5, "levels.3"),
                       (6, "levels.4.treshold")):  # fmt: skip
        assert any(f"yaml:{line}: " in row and said in row for row in caught.value.problem.splitlines()), said
    file.write_text("levels:\n" + good + good)
    with pytest.raises(UsageError, match="two levels are called 'a'"):
        load_levels(file)
    file.write_text("levels:\n" + good)
    assert list(load_levels(file)) == ["a"]
