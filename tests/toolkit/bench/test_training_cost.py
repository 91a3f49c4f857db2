"""The cost ledger: costs at equal quality, intervals and verdicts against worked cases; runs that are kept; honesty."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from targets.errors import UnknownName
from toolkit.bench.training_cost import ledger, methods, results
from toolkit.bench.training_cost.__main__ import main
from toolkit.bench.training_cost.ablation import CLAIMED, CLAIMED_IN_ALL, Ablation
from toolkit.bench.training_cost.equal_quality import Verdict, cost_of, factor
from toolkit.bench.training_cost.ledger import Row, product, rows
from toolkit.bench.training_cost.metering import Meter, Point
from toolkit.bench.training_cost.methods import ablation, names
from toolkit.bench.training_cost.results import Results, Run, digest, record
from toolkit.bench.training_cost.tasks import characters, digits


def curve(*points: tuple[float, float]) -> list[Point]:
    """(cost, quality) pairs as a training."""
    return [Point(quality, {"flops": cost, "time_s": cost, "samples": cost}) for cost, quality in points]


# ---- equal quality


def test_a_cost_lies_on_the_line_between_two_looks() -> None:
    points = curve((0, 0.1), (10, 0.5), (20, 0.9), (30, 0.8))
    assert cost_of(points, 0.7, "flops") == pytest.approx(15)
    assert cost_of(points, 0.9, "flops") == pytest.approx(20)
    assert cost_of(points, 0.95, "flops") is None
    assert cost_of(points, 0.05, "flops") == 10, "a model that nothing was spent on is no training"
    lost = [Point(float("-inf"), {"flops": 5.0}), *points[1:]]
    assert cost_of(lost, 0.3, "flops") == 10


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(0, 1), st.floats(0, 0.5))
def test_what_is_asked_more_never_costs_less(qualities: list[float], wanted: float, more: float) -> None:
    points = curve(*((10.0 * (i + 1), quality) for i, quality in enumerate(qualities)))
    less, much = cost_of(points, wanted, "flops"), cost_of(points, wanted + more, "flops")
    assert (less is None) <= (much is None)
    if less is not None and much is not None:
        assert less <= much + 1e-9


def by_seed(*ratios: float) -> tuple[dict[int, list[Point]], dict[int, list[Point]]]:
    """A baseline that reaches 0.9 for 100, and a method that does for 100 over each ratio; never for nought."""
    plain = {seed: curve((1, 0.0), (100, 0.9)) for seed in range(len(ratios))}
    found = {
        seed: curve((0.5, 0.0), (100 / r, 0.9)) if r else curve((1, 0.0), (200, 0.8)) for seed, r in enumerate(ratios)
    }
    return plain, found


@pytest.mark.parametrize(
    ("ratios", "median", "verdict"),
    [
        ((2, 2, 2, 2, 2), 2.0, Verdict.HELPS),
        ((0.5, 0.4, 0.6, 0.5, 0.5), 0.5, Verdict.HURTS),
        ((2, 2, 0.5, 2, 2), 2.0, Verdict.UNDECIDED),
        ((3, 3, 3, 3, 0), 3.0, Verdict.UNDECIDED),
        ((0, 0, 0, 0, 0), 0.0, Verdict.HURTS),
        ((9, 9, 9, 9), 9.0, Verdict.UNDECIDED),
        ((1, 1, 1, 1, 1), 1.0, Verdict.UNDECIDED),
    ],
)
def test_verdicts(ratios: tuple[float, ...], median: float, verdict: Verdict) -> None:
    found = factor(*by_seed(*ratios), cost="flops")
    assert found.median == pytest.approx(median)
    assert found.verdict == verdict
    assert found.reached == sum(ratio > 0 for ratio in ratios)
    assert (
        min(found.by_seed) - 1e-9 <= found.interval[0] <= found.median <= found.interval[1] <= max(found.by_seed) + 1e-9
    )


@pytest.mark.slow
def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of 300 experiments with nine seeds each; the exact order-statistic interval of nine covers 0.961 or 0.820."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        found = factor(*by_seed(*np.exp(rng.normal(np.log(2), 0.5, 9))), cost="flops")
        hits += found.interval[0] <= 2 <= found.interval[1]
    assert 0.90 <= hits / 300 <= 0.995


def test_equal_is_the_baselines_last_quality_less_the_margin_or_the_goal() -> None:
    plain, method = {0: curve((10, 0.5), (20, 0.9))}, {0: curve((10, 0.8), (20, 0.85))}
    assert factor(plain, method, cost="flops").median == 0
    assert factor(plain, method, cost="flops", margin=0.1).median == pytest.approx(17.5 / 10)
    assert factor(plain, method, cost="flops", goal=0.85).median == pytest.approx(18.75 / 20)
    assert factor(plain, method, cost="flops", goal=0.95).median == 0
    assert factor(method, plain, cost="flops", goal=0.88).median == pytest.approx(20 / 19.5), "at least its whole cost"
    assert factor(plain, method, cost="flops").gain == pytest.approx(-0.05)
    with pytest.raises(ValueError, match="no seed in common"):
        factor(plain, {1: method[0]}, cost="flops")
    with pytest.raises(ValueError, match="was lost"):
        factor({0: curve((1, float("-inf")))}, method, cost="flops")


# ---- metering


def test_flops_are_those_of_torchs_counter_and_of_each_step() -> None:
    model, x = nn.Linear(8, 4, bias=False), torch.randn(16, 8)
    meter = Meter()
    for _ in range(3):
        with meter.step("update", samples=16):
            model(x).sum().backward()
    meter.spend("flops", 5)
    meter.spend("labels", 2)
    meter.gauge("peak_bytes", 7)
    meter.judge(0.5)
    meter.judge(float("nan"))
    # forward and the weight's gradient, two operations for each product; x asks for no gradient
    assert meter.points[0].costs["flops"] == 3 * 2 * (2 * 16 * 8 * 4) + 5
    assert (meter.points[0].costs["samples"], meter.points[0].costs["labels"]) == (48, 2)
    assert meter.points[0].costs["peak_bytes"] == 7
    assert meter.points[0].costs["time_s"] > 0
    assert meter.points[1].quality == float("-inf")


def test_the_first_step_is_charged_the_time_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first runs under the counter, which is slow."""
    meter = Meter()
    clock = iter([0.0, 50.0, 100.0, 101.0, 200.0, 201.5])
    monkeypatch.setattr(meter, "_now_s", lambda: next(clock))
    for spent in (50.0, 2.0, 3.5):
        with meter.step("update"):
            pass
        meter.judge(0.0)
        assert meter.points[-1].costs["time_s"] == pytest.approx(spent)


# ---- tasks


@pytest.mark.parametrize("make", [digits, characters])
def test_tasks_are_cut_by_seed_and_nothing_is_in_both_parts(make: Callable[[int], object]) -> None:
    first, again, other = make(0), make(0), make(1)
    assert torch.equal(first.x, again.x)  # type: ignore[attr-defined]
    assert not torch.equal(first.asked_x, other.asked_x)  # type: ignore[attr-defined]
    learnt = {row.numpy().tobytes() for row in first.x}  # type: ignore[attr-defined]
    asked = [row.numpy().tobytes() for row in first.asked_x]  # type: ignore[attr-defined]
    assert sum(row in learnt for row in asked) <= 0.01 * len(asked), "a few windows of text say the same"


# ---- the ledger, on a method of its own

CALLS: list[tuple[str, int]] = []


def _arm(name: str, slope: float) -> Callable[[int, Meter], None]:
    def run(seed: int, meter: Meter) -> None:
        CALLS.append((name, seed))
        for step in range(1, 6):
            meter.spend("flops", 10)
            meter.judge(min(0.5, slope * step) - 0.001 * seed)

    return run


TOY = Ablation(
    name="toy", factor="data", task="a straight line", arms={"plain": _arm("plain", 0.1), "fast": _arm("fast", 0.25)},
    headline="fast", claimed=10.0, costs=("flops",),
)  # fmt: skip


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Ablation:
    for module in (ledger, results, sys.modules["toolkit.bench.training_cost.__main__"]):
        monkeypatch.setattr(module, "ablation", lambda name: {"toy": TOY}[name])
    monkeypatch.setattr(sys.modules["toolkit.bench.training_cost.__main__"], "names", lambda: ["toy"])
    CALLS.clear()
    return TOY


def test_runs_are_kept_and_a_run_that_was_cut_off_goes_on(
    toy: Ablation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--results", str(tmp_path), "--json"]
    assert main(["--seeds", "2", *flags]) == 0
    assert len(CALLS) == 4
    assert main(["--seeds", "5", *flags]) == 0
    assert len(CALLS) == 10, "six runs are new"
    capsys.readouterr()
    assert main(["--seeds", "5", *flags]) == 0
    assert len(CALLS) == 10
    document = json.loads(capsys.readouterr().out)
    (row,) = document["rows"]
    assert (row["verdict"], row["claimed"], row["factors"][0]["median"]) == ("helps", 10.0, pytest.approx(2.5))
    assert document["product"]["by_factor"]["data"][0] == pytest.approx(2.5)
    assert document["product"]["total"] == pytest.approx(2.5)
    assert document["product_time"]["total"] == 1.0, "it saves FLOPs, and nobody timed it"
    assert document["claimed"]["in_all"] == CLAIMED_IN_ALL
    for file in (tmp_path / "toy").iterdir():
        file.write_text(file.read_text()[:-9])
    assert main(["--seeds", "1", *flags]) == 0
    assert len(CALLS) == 12, "damaged files are none"
    assert main(["--seeds", "5", "--results", str(tmp_path / "other")]) == 0
    printed = capsys.readouterr().out
    assert "helps" in printed
    assert "in all: claimed 1e+09 (its factors give 5e+08), true 2.5x [2.5, 2.5]" in printed
    assert main(["--seeds", "5", "--results", str(tmp_path), "--markdown"]) == 0
    assert "| **toy**: fast | a straight line | 10x | FLOPs 2.5x [2.5, 2.5] | helps |" in capsys.readouterr().out


def test_code_that_changed_makes_runs_anew(toy: Ablation, tmp_path: Path) -> None:
    kept = Results(tmp_path)
    run = Run(ablation="toy", arm="plain", seed=0, machine="here", points=tuple(curve((1, 0.5))))
    kept.store(toy, run)
    assert kept.load(toy, "plain", 0) == run
    assert kept.load(replace(toy, version=2), "plain", 0) is None
    assert digest(toy) != digest(replace(toy, version=2))


def test_runs_of_two_machines_are_not_held_against_each_other(toy: Ablation) -> None:
    def runs(machine: str, arm: str) -> Sequence[Run]:
        return [Run(ablation="toy", arm=arm, seed=s, machine=machine, points=tuple(curve((1, 0.5)))) for s in range(5)]

    (row,) = rows(["toy"], [*runs("one", "plain"), *runs("other", "fast")])
    assert (row.factors, row.missing) == ((), "no run of both arms on one machine is there")
    assert row.verdict == "not measured"
    (row,) = rows(["toy"], [*runs("one", "plain"), *runs("one", "fast")])
    assert row.machine == "one"


def test_shipped_runs_are_used_unless_fresh_ones_are_asked_for(
    toy: Ablation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RECORDED", tmp_path / "recorded")
    run = Run(ablation="toy", arm="plain", seed=3, machine="elsewhere", points=tuple(curve((1, 0.5), (2, 0.25))))
    record(toy, [run])
    assert Results(tmp_path).load(toy, "plain", 3) == run
    assert Results(tmp_path).load(toy, "plain", 4) is None
    assert Results(tmp_path, fresh=True).load(toy, "plain", 3) is None
    assert Results(tmp_path).load(replace(toy, version=2), "plain", 3) is None


def test_what_came_with_the_toolkit_is_shown_without_measuring(
    toy: Ablation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "RECORDED", tmp_path / "recorded")
    flags = ["--results", str(tmp_path / "kept"), "--json"]
    assert main(["--recorded", *flags]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["verdict"], CALLS) == ("not measured", [])
    assert main(["--seeds", "12", "--record", *flags]) == 0
    CALLS.clear()
    results._shipped.cache_clear()
    capsys.readouterr()
    for asked, seeds in (([], 12), (["--seeds", "6"], 6)):
        assert main(["--recorded", *asked, "--results", str(tmp_path / "other"), "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert len(row["factors"][0]["by_seed"]) == seeds
    assert main(["--results", str(tmp_path / "other"), "--json"]) == 0
    assert CALLS == [], "all that came with the toolkit is there"
    with pytest.raises(SystemExit):
        main(["--recorded", "--fresh"])
    assert "--recorded measures nothing: leave out --fresh and --record" in capsys.readouterr().err


def test_the_table_of_the_readme_is_what_the_ledger_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--recorded", "--results", "nowhere", "--markdown"]) == 0
    readme = (Path(results.__file__).parents[2] / "training" / "README.md").read_text("utf-8")
    table = readme.split("<!-- table -->\n")[1].split("<!-- /table -->")[0]
    assert table == capsys.readouterr().out, "print it again, with --recorded --markdown"


def _row(name: str, kind: str, ratios: tuple[float, ...], *, headline: bool = True) -> Row:
    found = factor(*by_seed(*ratios), cost="flops")
    return Row(method=name, arm="it", factor=kind, task="", claimed=None, headline=headline, factors=(found,))


def test_the_product_counts_headlines_that_help_and_nothing_else() -> None:
    table = [
        _row("a", "data", (2,) * 5),
        _row("b", "data", (3,) * 5),
        _row("c", "koopman", (0.1,) * 5),
        _row("d", "kernels", (5, 5, 0.5, 5, 5)),
        _row("e", "compression", (50,) * 5, headline=False),
    ]
    true = product(table)
    assert true.by_factor["data"][0] == pytest.approx(6)
    assert {name: value for name, (value, _) in true.by_factor.items() if value != 1} == {"data": pytest.approx(6)}
    assert true.total == pytest.approx(6)
    assert true.interval == (pytest.approx(6), pytest.approx(6))
    spread = product([_row("a", "data", (1.5, 2, 2.5, 3, 3.5, 4, 2, 3))])
    assert spread.interval[0] < spread.total < spread.interval[1]
    assert list(CLAIMED) == list(true.by_factor)


# ---- the methods


@pytest.mark.parametrize("name", names())
def test_every_method_is_an_ablation_under_its_own_name(name: str) -> None:
    what = ablation(name)
    assert what.name == name
    assert what.headline in what.others
    assert what.cost in ("time_s", "flops", "samples", "labels", "size_bytes", "peak_bytes")
    assert what.cost in what.costs or what.costs == ("time_s", "flops", "samples")
    assert what.hindered("tpu").startswith("wants --device")


def test_a_method_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownName, match="unknown method 'curiculum'"):
        ablation("curiculum")
    with pytest.raises(SystemExit) as end:
        main(["curiculum"])
    assert end.value.code == 2
    assert "did you mean 'curriculum'?" in capsys.readouterr().err


def test_what_is_shipped_was_made_by_the_code_that_is_shipped() -> None:
    """Every recorded method is still what it was when it was measured, on one machine, from five seeds at least."""
    recorded = sorted(path.stem for path in results.RECORDED.glob("*.json"))
    assert recorded, "the ledger ships its runs"
    for name in recorded:
        what = ablation(name)
        for arm in what.arms:
            runs = [run for seed in range(5) if (run := Results(Path("nowhere")).load(what, arm, seed))]
            assert len(runs) == 5, f"{name}: record it again"
            assert len({run.machine for run in runs}) == 1


@pytest.mark.slow
def test_the_curriculum_is_measured_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One seed of a real method: costs that add up and a scout that is charged."""
    assert main(["curriculum", "--seeds", "1", "--fresh", "--results", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["verdict"] == "undecided", "one seed decides nothing"
    kept = Results(tmp_path, fresh=True)
    plain, easy = (kept.load(ablation("curriculum"), arm, 0) for arm in ablation("curriculum").arms)
    assert plain is not None
    assert easy is not None
    assert plain.points[-1].quality > 0.93
    samples = [run.points[-1].costs["samples"] for run in (plain, easy)]
    assert samples == [12 * 1437, 13 * 1437]
    assert easy.points[0].quality == float("-inf"), "while the scout learns, there is nothing to show"
    assert methods.ablation("curriculum").baseline == "all at random"
