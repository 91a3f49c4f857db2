"""The table of held-out errors on rows made here, stacks matched to published rows, counts of published networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper
from scipy.stats import binomtest
from torch.utils.flop_counter import FlopCounterMode

from targets.fitting import HeldOut, Measured, held_out, predict
from targets.graph import read_workload
from targets.latency import COVERAGE, LatencyFit
from targets.operators import Product
from targets.stack import Stack
from targets.target import load_stack, load_target, prior_of, shipped_target, target_names
from targets.workload import Operator, Workload
from toolkit.bench import estimates
from toolkit.bench.baselines import BASELINES, left_out_errors
from toolkit.bench.estimates import Errors, Goal, Row, judge
from toolkit.bench.published import COLUMNS, measured_rows, published_rows
from toolkit.cli.main import main

pytestmark = pytest.mark.slow

STACKS = [stack for name in target_names() for stack in shipped_target(name).stacks.values()]
each_stack = pytest.mark.parametrize("stack", STACKS, ids=lambda s: s.id)
STACK = load_stack("raspberry_pi_4/tflite-fp32")

# ---- rows made here


def network(seed: int) -> Workload:
    rng = np.random.default_rng(seed)
    operators = []
    for i in range(int(rng.integers(4, 12))):
        op_class = str(rng.choice(["pointwise", "depthwise", "conv3x3"]))
        taps = 1 if op_class == "pointwise" else 9
        depth, columns = (9, 1) if op_class == "depthwise" else (taps * int(rng.integers(8, 64)), 64)
        groups = 64 if op_class == "depthwise" else 1
        operators.append(
            Operator(
                name=f"op{i}", op_type="Conv", op_class=op_class, dtype="float32", rank=4,
                product=Product(int(rng.integers(100, 5000)), depth, columns, groups, taps),
                input_bytes=int(rng.integers(10**4, 10**6)), output_bytes=int(rng.integers(10**4, 10**6)),
                weight_bytes=4 * depth * columns * groups,
            )
        )  # fmt: skip
    return Workload(name=f"net{seed}", operators=tuple(operators), tensor_bytes={}, inputs=(), outputs=())


@pytest.fixture(scope="module")
def prior() -> LatencyFit:
    return prior_of(load_target(STACK.target), STACK.name)


def rows_of(prior: LatencyFit, noise: float, count: int = 18) -> list[Measured]:
    rng = np.random.default_rng(3)
    truth = replace(prior, costs={cause: 1.5 * cost for cause, cost in prior.costs.items()})
    made = [Measured(f"net{i}", f"family{i % 3}", network(i), 1.0) for i in range(count)]
    return [replace(row, latency_s=predict(row, truth) * float(np.exp(noise * rng.standard_normal()))) for row in made]


@pytest.fixture(scope="module")
def clean(prior: LatencyFit) -> Row:
    return judge(STACK, rows_of(prior, 0.0), prior)


def test_a_row_of_the_table_names_what_was_measured_and_how_many(clean: Row) -> None:
    assert (clean.stack, clean.rows, clean.networks) == (STACK.id, 18, 18)
    assert clean.measured_as == STACK.measured_as
    assert set(clean.measured_as) == set(COLUMNS)
    assert set(clean.model) == set(estimates.GROUPS) >= {"network", "family"}
    assert set(clean.baselines) == set(BASELINES) == {"macs", "additive"}
    assert all(set(found) == set(estimates.GROUPS) for found in clean.baselines.values())


def test_the_document_spells_every_figure(clean: Row) -> None:
    document = json.loads(json.dumps(asdict(clean), allow_nan=False))
    assert set(document) == {
        "stack", "measured_as", "rows", "networks", "goal", "model", "baselines", "p_coverage",
    } | (set(document) & {"missed", "misses"})  # fmt: skip
    for errors in (*document["model"].values(), *document["baselines"]["macs"].values()):
        assert set(errors) >= {"mape", "within_10", "within_20", "spearman", "coverage"}
        assert 0 <= errors["within_10"] <= errors["within_20"] <= 1
        assert -1 <= errors["spearman"] <= 1


def test_rows_that_follow_the_model_meet_the_goal_and_beat_arithmetic_alone(clean: Row) -> None:
    for what in ("network", "family"):
        found = clean.model[what]
        assert found.mape < 0.05
        assert found.within_10 >= 0.9
        assert found.spearman > 0.99
        assert found.mape < clean.baselines["macs"][what].mape
    assert clean.goal is not None
    assert not clean.missed


def test_the_figures_are_those_of_the_networks_left_out(prior: LatencyFit) -> None:
    rows = rows_of(prior, 0.2)
    found, measured = judge(STACK, rows, prior).model, np.array([row.latency_s for row in rows])
    for what, group in estimates.GROUPS.items():
        left_out = held_out(rows, prior, group)
        errors = np.abs(measured / np.array(left_out.factors) / measured - 1)
        assert found[what].mape == pytest.approx(np.mean(errors))
        assert found[what].within_10 == pytest.approx(np.mean(errors <= 0.1))
        assert found[what].within_20 == pytest.approx(np.mean(errors <= 0.2))


def test_a_goal_is_missed_by_the_network_or_by_the_family(clean: Row) -> None:
    def with_errors(network: float, family: float) -> Row:
        model = {
            "network": replace(clean.model["network"], mape=network, within_10=1.0, within_20=1.0, spearman=1.0),
            "family": replace(clean.model["family"], mape=family, within_10=1.0, within_20=1.0, spearman=1.0),
        }
        return replace(clean, goal=Goal(0.06, 0.09), model=model)

    assert not with_errors(0.06, 0.09).missed
    assert with_errors(0.061, 0.05).missed
    assert with_errors(0.05, 0.091).missed
    assert not replace(with_errors(0.05, 0.5), goal=Goal(0.06)).missed
    assert not replace(with_errors(9.0, 9.0), goal=None).missed
    fine = with_errors(0.05, 0.05)
    for part, found in (("within_10", 0.84), ("within_20", 0.89), ("spearman", 0.96)):
        goal = replace(Goal(0.06), **{part: found + 0.01})
        model = {**fine.model, "network": replace(fine.model["network"], **{part: found})}
        assert replace(fine, goal=goal, model=model).missed
        assert not replace(fine, goal=replace(Goal(0.06), **{part: found}), model=model).missed


def test_the_binomial_test_is_that_of_the_share_inside(prior: LatencyFit) -> None:
    rows = rows_of(prior, 0.3)
    found = judge(STACK, rows, prior)
    inside = found.model["network"].coverage
    assert inside is not None
    assert found.p_coverage == pytest.approx(binomtest(round(inside * len(rows)), len(rows), COVERAGE).pvalue)
    assert 0 < found.p_coverage <= 1


def test_coverage_takes_its_width_from_the_others() -> None:
    """Nineteen errors alike and one of a hundred times: inside are those that the others vouch for."""
    scores = [1.0] * 19 + [100.0]
    found = HeldOut(tuple(np.exp(scores)), (1.0,) * 20)
    assert found.coverage == pytest.approx(19 / 20)
    assert HeldOut(tuple(np.exp(np.linspace(0.1, 5, 200))), (1.0,) * 200).coverage == pytest.approx(COVERAGE, abs=0.01)


@pytest.mark.parametrize("baseline", sorted(BASELINES))
def test_a_baseline_does_not_see_what_it_predicts(prior: LatencyFit, baseline: str) -> None:
    rows = rows_of(prior, 0.1)
    slower, faster = ([replace(rows[0], latency_s=by * rows[0].latency_s), *rows[1:]] for by in (7, 1 / 7))
    for what in ("network", "family"):
        group = estimates.GROUPS[what]
        plain, *spoilt = (left_out_errors(made, prior, group, baseline)[1] for made in (rows, slower, faster))
        own = [group(row) == group(rows[0]) for row in rows]
        assert all(found[own] == pytest.approx(plain[own], rel=1e-12) for found in spoilt)
        assert not np.allclose(spoilt[0], spoilt[1]), "the others do see it"


def test_errors_are_relative_to_what_was_measured() -> None:
    measured, predicted = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.05, 2.4, 3.0, 8.0])
    found = Errors.of(np.abs(predicted / measured - 1), predicted, measured)
    assert found == Errors(pytest.approx(0.125), 0.5, pytest.approx(0.75), 1.0, None)


def test_the_printed_table_says_whether_the_goal_was_met(clean: Row, capsys: pytest.CaptureFixture[str]) -> None:
    estimates._print(clean)
    estimates._print_pooled([clean])
    text = capsys.readouterr().out
    assert STACK.id in text
    assert all(value in text for value in clean.measured_as.values() if value)
    assert "18 rows of 18 networks" in text
    assert "met" in text
    assert "MISSED" not in text
    assert "of 18 rows" in text
    estimates._print(replace(clean, goal=Goal(0.0)))
    assert "MISSED" in capsys.readouterr().out


def test_goals_are_set_for_stacks_that_there_are() -> None:
    assert set(estimates._GOALS) <= {stack.id for stack in STACKS}
    for goal in estimates._GOALS.values():
        assert 0 < goal.network < 1
        assert goal.family is None or goal.network <= goal.family


def test_the_json_document_holds_the_stacks_of_the_targets_that_were_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prior: LatencyFit, clean: Row
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(estimates, "report", lambda names: asked.append(list(names)) or [clean])
    monkeypatch.setattr("sys.argv", ["estimates", "--json", "raspberry_pi_4"])
    estimates.main()
    document = json.loads(capsys.readouterr().out)
    assert asked == [["raspberry_pi_4"]]
    assert document["schema"] == "toolkit.bench.estimates/1"
    assert [row["stack"] for row in document["stacks"]] == [STACK.id]


# ---- matching


def test_every_row_that_a_stack_stands_for_is_another_stacks_in_no_case() -> None:
    claimed = [tuple(stack.measured_as[c] for c in COLUMNS) for stack in STACKS if stack.measured_as]
    assert len(set(claimed)) == len(claimed)


@each_stack
def test_what_a_stack_was_measured_as_selects_rows_of_the_frozen_tables(stack: Stack) -> None:
    """A stack with fitted costs stands for rows; one that stands for rows finds at least one."""
    if not stack.measured_as:
        assert stack.latency.rows == 0
        return
    assert set(stack.measured_as) == set(COLUMNS)
    found = [row for row in published_rows() if all(row[c] == stack.measured_as[c] for c in COLUMNS)]
    assert found
    assert len(found) >= stack.latency.rows


def test_targets_as_json_let_a_program_match_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    stacks = {stack["id"]: stack for target in document["targets"] for stack in target["stacks"]}
    assert set(stacks) == {stack.id for stack in STACKS}
    by_columns = {
        tuple(stack["measured_as"][c] for c in COLUMNS): name for name, stack in stacks.items() if stack["measured_as"]
    }
    matched = {by_columns[key] for row in published_rows() if (key := tuple(row[c] for c in COLUMNS)) in by_columns}
    assert matched == set(by_columns.values())
    for stack in STACKS:
        assert stacks[stack.id]["measured_as"] == dict(stack.measured_as)
        assert stacks[stack.id]["precision"] == stack.precision
        assert stacks[stack.id]["batch"] == stack.batch


def test_a_row_of_another_runtime_or_thread_count_is_never_pooled() -> None:
    row = {**STACK.measured_as, "model": "MobileNetV2", "input_shape": "1x224x224x3", "latency_ms": "10", "fps": ""}
    for column in COLUMNS:
        assert not list(measured_rows(STACK, [{**row, column: "7"}])), column


# ---- any ONNX file on any stack


def saved(text: str, path: Path, **weights: tuple[int, ...]) -> Path:
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{text}')
    for name, shape in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    return path


def convolutional(folder: Path) -> Path:
    return saved(
        """g (float[1,3,32,32] x) => (float[1,10] y) {
            c = Conv<strides=[2,2],pads=[1,1,1,1]>(x, stem)  r = Clip(c)
            d = Conv<group=16,pads=[1,1,1,1]>(r, depth)  s = Relu(d)
            p = Conv(s, point)  a = GlobalAveragePool(p)  f = Flatten(a)  y = Gemm(f, head) }""",
        folder / "convolutional.onnx", stem=(16, 3, 3, 3), depth=(16, 1, 3, 3), point=(32, 16, 1, 1), head=(32, 10),
    )  # fmt: skip


def transformer(folder: Path) -> Path:
    return saved(
        """g (float[1,16,32] x) => (float[1,16,32] y) {
            n = LayerNormalization(x, gain, shift)  q = MatMul(n, wq)  k = MatMul(n, wk)  v = MatMul(n, wv)
            t = Transpose<perm=[0,2,1]>(k)  s = MatMul(q, t)  p = Softmax(s)  a = MatMul(p, v)
            o = MatMul(a, wo)  h = Add(x, o)  u = MatMul(h, up)  g1 = Relu(u)  d = MatMul(g1, down)  y = Add(h, d) }""",
        folder / "transformer.onnx", gain=(32,), shift=(32,), wq=(32, 32), wk=(32, 32), wv=(32, 32), wo=(32, 32),
        up=(32, 128), down=(128, 32),
    )  # fmt: skip


@pytest.mark.parametrize("own", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["own", "every"])
@pytest.mark.parametrize("make", [convolutional, transformer])
def test_any_onnx_file_is_estimated_on_every_stack(
    make: Callable[[Path], Path], own: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On that which a target names first, and on all."""
    path = make(tmp_path)
    for target in map(load_target, target_names()):
        for stack in [target.stack()] if own else target.stacks.values():
            assert main(["estimate", str(path), "--stack", stack.id, "--json"]) == 0, stack.id
            document = json.loads(capsys.readouterr().out)
            assert (document["schema"], document["stack"]) == ("toolkit.estimate/1", stack.id)
            low, high = document["latency_interval_s"]
            assert 0 < low < document["latency_s"] < high, stack.id
            rows = sum(row["latency_s"] for row in document["operators"])
            assert document["latency_s"] == pytest.approx(document["fixed_s"] + rows), stack.id
            assert document["calibrated"] is stack.latency.calibrated
            assert bool(document["provenance"].startswith("uncalibrated")) is not stack.latency.calibrated
            assert all(document[f"{what}provenance"] for what in ("", "memory_", "energy_")), stack.id


# ---- arithmetic of published networks


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mobilenet_v2_1.0", "1x96x96x3"),
        ("resnet18", "1x64x64x3"),
        ("squeezenet_1.1", "1x64x64x3"),
        ("shufflenet_v2_1.0", "1x64x64x3"),
        ("resnext50_32x4d", "1x64x64x3"),
        ("densenet121", "1x64x64x3"),
    ],
)
def test_published_networks_count_as_torch_counts_them(name: str, shape: str) -> None:
    from toolkit.bench.graphs import graph_of
    from toolkit.bench.networks import build

    with torch.device("meta"):
        built = build(name, shape)
        assert built is not None
        network, (_, *rest) = built
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, *rest))
    graph = graph_of(name, shape)
    assert graph is not None
    assert 2 * read_workload(graph).macs == counter.get_total_flops()
    fused = read_workload(graph, fuses=("batch_norm", "activation", "residual_add", "pointwise"))
    assert fused.macs == read_workload(graph).macs, "what is fused has the same arithmetic"
    assert len(fused.operators) < len(read_workload(graph).operators)
