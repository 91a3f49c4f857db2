"""The comparison of searches: equal evaluations, scores that mean what they say, and tables that can be made again."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from toolkit.bench.search import tables
from toolkit.bench.search.__main__ import main, summary
from toolkit.bench.search.asking import Asked, Enough
from toolkit.bench.search.judging import holm, qd_score, standings, volume
from toolkit.bench.search.methods import ABLATION, METHODS, Prices, blind, ours, stratified
from toolkit.bench.search.problems import Point, Problem, problem, problem_names
from toolkit.errors import MissingDependency, UnknownName
from toolkit.rng import generator
from toolkit.search.deployment.prices import MEASURES

EVALUATIONS = 70


@pytest.fixture(scope="module")
def toy():
    """Twenty-five configurations: quality and latency rise with the first gene, the second makes large for nothing."""
    genes = {"a": (1, 2, 3, 4, 5), "b": (1, 2, 3, 4, 5)}
    return Problem("toy", genes, lambda at: Point(0.2 * at[0], 1e-3 * 10 ** (at[0] / 4), 100.0 * (1 + at[1])))


@pytest.mark.slow
@pytest.mark.parametrize("method", [ours, blind, stratified, ABLATION["with genetic"]])
def test_no_method_evaluates_more_than_it_may(method):
    asked = Asked(problem("synthetic"), EVALUATIONS)
    method(asked, 0)
    assert (len(asked.points), asked.left) == (EVALUATIONS, 0)
    again = Asked(problem("synthetic"), EVALUATIONS)
    method(again, 0)
    assert again.points == asked.points
    with pytest.raises(Enough):
        asked((0,) * 36)


def test_scores_by_hand(toy):
    every = [toy.evaluate((a, b)) for a in range(5) for b in range(5)]
    # five steps of the front, each a quarter slower and a fifth better; neither end is worth anything
    assert volume(toy, every) == pytest.approx(0.2 * 0.75 + 0.2 * 0.5 + 0.2 * 0.25, rel=1e-6)
    assert volume(toy, [toy.evaluate((4, 0))]) == pytest.approx(0.0, abs=1e-9)
    assert qd_score(toy, every[-1:] * 3) == pytest.approx(0.8)
    assert qd_score(toy, every) <= sum(point.quality for point in every) + 1e-9


def test_more_evaluations_are_never_worth_less(toy):
    rng = generator(0, "test", "search bench")
    points = [toy.evaluate(tuple(row)) for row in rng.integers(0, 5, (12, 2)).tolist()]
    for score in (volume, qd_score):
        values = [score(toy, points[:n]) for n in range(1, len(points) + 1)]
        assert values == sorted(values)


def test_holm_against_its_definition():
    # Holm 1979: sorted p-values times 3, 2, 1, never falling
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_who_is_below_the_best():
    found = standings({"a": [1.0, 1.1, 1.2], "b": [0.9, 1.0, 1.1], "c": [1.0, 1.1, 1.2], "d": [0.2, 1.2, 1.8]})
    assert found["a"].is_best
    assert found["c"].is_best
    assert not found["c"].is_below
    assert found["b"].is_below
    assert not found["d"].is_below
    for one in found.values():
        assert one.interval[0] <= one.mean <= one.interval[1]
    assert "first in both scores on 1 of 1" in summary({"x": {"s": found}}, "a")
    assert "below the best on x (s)" in summary({"x": {"s": found}}, "b")


def test_prices_are_those_of_the_problem(toy):
    found = Prices(toy).measures([{"a": 2, "b": 3}, {"a": 5, "b": 1}])
    names = [measure.name for measure in MEASURES]
    assert found[0, names.index("latency_s")] == toy.evaluate((1, 2)).latency_s
    assert found[1, names.index("model_bytes")] == toy.evaluate((4, 0)).model_bytes


def test_the_command(capsys):
    assert main(["synthetic", "--methods", "stratified random", "--seeds", "2", "--evaluations", "20", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["problems"]["synthetic"]) == {"hypervolume", "QD score"}
    assert document["evaluations"] == 20
    with pytest.raises(SystemExit) as caught:
        main(["--seeds", "1"])
    assert caught.value.code == 2
    assert main(["nowhere"]) == UnknownName.exit_code
    assert "nowhere" in capsys.readouterr().err


def test_a_peer_that_is_not_installed(monkeypatch):
    for name in ("ribs.archives", "pymoo.algorithms.moo.nsga2", "optuna"):
        monkeypatch.setitem(sys.modules, name, None)
    for method, package in (("pyribs MAP-Elites", "pyribs"), ("pymoo NSGA-II", "pymoo"), ("Optuna TPE", "Optuna")):
        with pytest.raises(MissingDependency, match=package) as caught:
            METHODS[method](Asked(problem("synthetic"), 5), 0)
        assert "edge-toolkit[bench]" in caught.value.hint


def test_tables_hold_every_row():
    assert tables.names()
    for name in tables.names():
        table = tables.load(name)
        assert len(table) == len(table.right) == len(table.weight_bytes)
        assert table.right.max() <= table.samples
        for seconds in table.latency_s.values():
            assert np.nanmin(seconds) > 0
        size = sum(path.stat().st_size for path in tables.ROWS.glob(f"{name}*"))
        assert size < 2_000_000


def test_a_target_without_integers_has_no_genes_of_precision():
    free, fixed = problem("digits/raspberry_pi_4"), problem("digits/jetson_nano")
    assert {name for name in free.genes if name.endswith("precision")}
    assert not {name for name in fixed.genes if name.endswith("precision")}
    rng = generator(0, "test", "jetson")
    for row in np.stack([rng.integers(0, n, 50) for n in fixed.sizes], 1).tolist():
        assert np.isfinite(fixed.evaluate(tuple(row)).latency_s)
    assert {"synthetic", "digits/coral_tpu"} <= set(problem_names())


def test_a_table_that_was_broken_off_goes_on_where_it_was(tmp_path):
    from toolkit.bench.search.tabulate import TARGETS, Row, tabulated

    made = []

    def rows(done):
        for number in range(4):
            if number not in done:
                made.append(number)
                yield number, Row(number, 100 + number, dict.fromkeys(TARGETS, float(number) or float("nan")))

    digests = SimpleNamespace(digest="of something")
    task = SimpleNamespace(program=digests, asked=digests, calibration=digests)
    network = SimpleNamespace(name="toy", genes={"a": (0, 1), "b": (0, 1)}, rows=rows, task=task, asked=([], [0] * 9))
    journal = tmp_path / "toy.jsonl"
    whole = tabulated(network, journal)
    lines = [line for line in journal.read_text("utf-8").splitlines() if line]
    journal.write_text("\n".join([*lines[:2], lines[2][:10]]), "utf-8")
    again = tabulated(network, journal)
    assert made == [0, 1, 2, 3, 2, 3]
    assert again.right.tolist() == whole.right.tolist() == [0, 1, 2, 3]
    assert again.weight_bytes.tolist() == [100, 101, 102, 103]
    for name in TARGETS:
        np.testing.assert_array_equal(again.latency_s[name], whole.latency_s[name])
    assert tabulated(network, journal).right.tolist() == [0, 1, 2, 3]
    assert made == [0, 1, 2, 3, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "transformer"])
def test_rows_of_a_network_come_out_again(name):
    from toolkit.bench.search.tabulate import NETWORKS

    table, network = tables.load(name), NETWORKS[name]
    assert dict(table.genes) == network.genes
    rng = generator(0, "test", "rows")
    for number in [0, len(table) - 1, *rng.integers(0, len(table), 6).tolist()]:
        row = network.row(number)
        # kernels of other processors round sums otherwise: an answer on the edge between two digits may change
        assert abs(row.right - int(table.right[number])) <= 3
        assert row.weight_bytes == table.weight_bytes[number]
        for target, seconds in row.latency_s.items():
            assert seconds == pytest.approx(table.latency_s[target][number], rel=1e-6, nan_ok=True)


@pytest.mark.slow
def test_what_is_narrowed_keeps_its_answers_or_its_shape():
    from toolkit.bench.search.candidates import narrowed, shrinkable
    from toolkit.bench.search.tabulate import NETWORKS

    network = NETWORKS["digits"]
    sample = next(iter(network.task.asked))
    whole = network.floating
    channels = [group.channels for group in shrinkable(whole, trunk=True)]
    assert channels == [24, 48]
    same = narrowed(whole, channels, trunk=True)
    for name, answer in whole.run(sample).items():
        np.testing.assert_array_equal(same.run(sample)[name], answer)
    thin = narrowed(whole, [20, 30], trunk=True)
    assert [group.channels for group in shrinkable(thin.with_model(thin.static_model), trunk=True)] == [20, 30]
    assert next(iter(thin.run(sample).values())).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("efficientnet_lite_pytorch") is None, reason="README, block real-networks, installs it")
def test_parts_answer_and_cost_what_the_whole_does():
    from targets.cost import estimate
    from targets.target import load_target
    from toolkit.bench.search.segments import joined, segmented

    one = next(iter(segmented()))
    sample = next(iter(one.task.asked))
    stack = load_target("raspberry_pi_4").stack()
    for precision in ("float", "int8"):
        whole, parts = one.whole(precision), one.parts(precision)
        value = next(iter(sample.values()))
        for part in parts:
            value = next(iter(part.session({next(iter(part.session.inputs())): value}).values()))
        wanted = next(iter(whole.run(sample).values()))
        # what onnxruntime fuses across a cut is summed in another order, in float32
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        work = joined([part.work[stack.id] for part in parts], (precision,) * len(parts))
        found = estimate(work, stack, as_is=True, quick=True)
        alone = estimate(whole.static_model, stack, as_is=True, quick=True)
        assert found.latency_s == pytest.approx(alone.latency_s, rel=1e-9)
        # numbers that layers share are held by each part: a bound of an activation or two, in float32
        assert 0 <= found.weight_bytes - alone.weight_bytes <= 16 * len(parts)
