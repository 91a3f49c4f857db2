"""The goals of the geometry library: what is compared is the same, and what is printed is as defined."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from toolkit.bench.geometry import forms as listed
from toolkit.bench.geometry import goals
from toolkit.bench.geometry.__main__ import _judged
from toolkit.bench.geometry.forms import STEPS, Forms
from toolkit.bench.geometry.goals import MEAN, core_operations, forms
from toolkit.bench.geometry.operations import OPERATIONS


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [listed._christoffel, listed._curvature, lambda: listed._pattern(12), lambda: listed._graph(96, 5),
     lambda: listed._graph(40, 30)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_all_forms_of_a_step_answer_alike(make) -> None:
    (_, ours), *others = make()
    found = ours().clone()
    for name, run in others:
        torch.testing.assert_close(run(), found, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_the_chains_move_alike_in_all_forms_that_are_quick() -> None:
    ways = dict(listed._chains())
    for name in ("autograd", "closed form"):
        torch.testing.assert_close(ways[name](), ways["library"](), rtol=1e-12, atol=1e-12)


def test_the_list_is_the_one_that_the_goal_names() -> None:
    assert [name.split(",")[0] for name in STEPS] == [
        "Christoffel symbols", "Riemann tensor", "reaction and diffusion", "10 leapfrogs", "Forman curvature",
        "tiled attention",
    ]  # fmt: skip
    assert len(OPERATIONS) == 7


def _clocked(monkeypatch: pytest.MonkeyPatch, durations: Mapping[str, float]) -> list[dict[str, object]]:
    asked = []

    def in_turns(runs, *, seconds, fewest, warm_ups):
        asked.append({"runs": list(runs), "fewest": fewest, "warm_ups": warm_ups})
        return {name: [durations[name] * (1 + 0.01 * (k % 3)) for k in range(fewest)] for name in runs}

    monkeypatch.setattr(goals, "in_turns_s", in_turns)
    return asked


def _forms() -> Forms:
    def run() -> torch.Tensor:
        return torch.ones(3) + 1

    return Forms(ours=run, plain={"slow": run, "best": run}, shown={"loop": run, "closed form": run})


def test_the_best_plain_form_counts_and_the_mean_is_geometric(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = {"library": 1.0, "slow": 9.0, "best": 3.0, "loop": 99.0, "closed form": 0.1}
    asked = _clocked(monkeypatch, durations)
    rows = list(forms({"one": _forms, "two": _forms}))
    assert asked[0] == {"runs": ["library", "slow", "best", "closed form"], "fewest": 60, "warm_ups": 5}
    assert asked[1]["runs"] == ["loop"]
    ours = [row for row in rows if row.form == "library"]
    assert [row.step for row in ours] == ["one", "two", MEAN]
    assert [row.times for row in ours] == pytest.approx([3, 3, 3])
    for row in ours:
        assert row.interval is not None
        assert row.interval[0] <= row.times <= row.interval[1]
    shown = {row.form: row for row in rows if row.step == "one"}
    assert shown["closed form"].times == pytest.approx(0.1)
    assert shown["loop"].interval is None
    assert (shown["best"].rounds, shown["best"].operators, shown["best"].new_bytes) == (60, 2, 24)


def test_an_operation_has_a_median_with_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    _clocked(monkeypatch, {"one": 2e-3})
    (row,) = core_operations({"one": lambda: lambda: torch.ones(3) + 1})
    assert row.interval_s[0] <= row.median_s <= row.interval_s[1]
    assert (row.median_s, row.rounds, row.operators, row.threads) == (pytest.approx(2.02e-3), 60, 2, 1)


@pytest.mark.parametrize("name", OPERATIONS)
def test_core_operations_run(name: str) -> None:
    run = OPERATIONS[name]()
    assert run() is not None


def test_verdicts_are_of_the_end_of_the_interval_that_is_worse() -> None:
    row = {"step": "s", "form": "library", "times": 2.2, "interval": (1.9, 2.4)}
    slow = {"operation": "o", "median_s": 0.9e-3, "interval_s": (0.8e-3, 1.1e-3)}
    assert list(_judged({"runtime": [row, {**row, "form": "loop"}], "operations": [slow]})) == [
        "s: 2.20x the best plain form, MISSES 2.0x",
        "o: 0.90 ms, NOT below 1 ms",
    ]
