"""What is left out together: a network at every size of its input, of the fit and of the interval alike."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from targets.fitting import HeldOut, Measured, fit_stack, held_out, predict
from targets.latency import COVERAGE, LatencyFit
from targets.operators import Product
from targets.stack import Stack
from targets.target import load_stack, load_target, prior_of, shipped_target, target_names
from targets.workload import Operator, Workload
from toolkit.bench.estimates import judge
from toolkit.bench.networks import canonical
from toolkit.bench.published import measured_rows, published_rows
from toolkit.cli.main import main

pytestmark = pytest.mark.slow

STACK = load_stack("raspberry_pi_4/tflite-int8")
TABLES = [
    stack for name in target_names() for stack in shipped_target(name).stacks.values() if stack.latency.calibrated
]


@pytest.fixture(scope="module")
def prior() -> LatencyFit:
    return prior_of(load_target(STACK.target), STACK.name)


def network(seed: int, size: int) -> Workload:
    """Convolutions over size x size positions."""
    channels = [int(c) for c in np.random.default_rng(seed).integers(8, 64, 6)]
    return Workload(
        name=f"net{seed}",
        operators=tuple(
            Operator(
                name=f"op{i}", op_type="Conv", op_class="pointwise", dtype="int8", rank=4,
                product=Product(size * size, depth, columns), input_bytes=size * size * depth,
                output_bytes=size * size * columns, weight_bytes=depth * columns,
            )
            for i, (depth, columns) in enumerate(pairwise(channels))
        ),
        tensor_bytes={}, inputs=(), outputs=(),
    )  # fmt: skip


def rows(prior: LatencyFit, sizes: int, odd: float = 1.0) -> list[Measured]:
    """Eight networks at several sizes; the first is slower than the model has it, by the same factor at each size."""
    made = []
    for seed in range(8):
        for step in range(sizes):
            row = Measured(f"net{seed}", "plain", network(seed, 32 + 16 * step), 1.0)
            made.append(replace(row, latency_s=predict(row, prior) * (odd if seed == 0 else 1.02**seed)))
    return made


# ---- which rows are one network


def test_a_published_network_at_two_sizes_is_one_network() -> None:
    name = next(r["model"] for r in published_rows() if canonical(r["model"]) == "mobilenet_v2_1.0")
    row = {**STACK.measured_as, "model": name, "latency_ms": "10", "fps": ""}
    sizes = [{**row, "input_shape": shape} for shape in ("1x96x96x3", "1x128x128x3")]
    small, large = measured_rows(STACK, sizes)
    assert small.network == large.network == "mobilenet_v2_1.0"
    assert small.workload.macs < large.workload.macs


@pytest.mark.parametrize("stack", TABLES, ids=lambda s: s.id)
def test_a_shipped_stack_counts_its_networks_by_their_names(stack: Stack) -> None:
    found = {
        canonical(row["model"])
        for row in published_rows()
        if all(row[column] == value for column, value in stack.measured_as.items())
    } - {None}
    assert stack.latency.networks <= len(found)


def test_a_fit_says_of_how_many_networks_it_is(prior: LatencyFit) -> None:
    made = rows(prior, sizes=3)
    fit = fit_stack(made, prior, "made here")
    assert (fit.rows, fit.networks) == (24, 8)
    assert "24 rows of 8 networks" in fit.provenance


def test_no_size_of_a_network_is_seen_when_another_is_predicted(prior: LatencyFit) -> None:
    """Where only one network is odd, its latency at one size must not move its prediction at another."""
    plain, odd = (held_out(rows(prior, 3, by), prior, lambda row: row.network) for by in (1.0, 4.0))
    assert odd.factors[:3] == pytest.approx([4 * factor for factor in plain.factors[:3]])
    assert odd.groups == tuple(f"net{i // 3}" for i in range(24))


# ---- the interval


def test_the_width_of_a_networks_interval_is_taken_from_other_networks() -> None:
    """A network that is missed alike at three sizes would vouch for itself, were only one size left out."""
    factors, groups = [*(np.e,) * 3, *(1.1,) * 7], [*("odd",) * 3, *"abcdefg"]
    alone = HeldOut(tuple(factors), (1.0,) * 10)
    together = replace(alone, groups=tuple(groups))
    assert alone.coverage == 1.0
    assert together.coverage == pytest.approx(0.7)
    assert together.quantile == alone.quantile, "what a stack is shipped with is taken from all of them"


def test_rows_of_their_own_are_left_out_alone() -> None:
    scores = np.random.default_rng(0).uniform(0.1, 3, 40)
    found = HeldOut(tuple(np.exp(scores)), (1.0,) * 40)
    assert found.coverage == replace(found, groups=tuple(map(str, range(40)))).coverage
    assert found.coverage == pytest.approx(COVERAGE, abs=0.05)


@pytest.mark.parametrize("found", [HeldOut((1.1,), (1.0,)), HeldOut((1.1, 1.2), (1.0, 1.0), ("one", "one"))])
def test_one_group_has_no_others_to_take_a_width_from(found: HeldOut) -> None:
    assert found.coverage is None


def test_the_table_leaves_networks_out_whole(prior: LatencyFit) -> None:
    made = rows(prior, sizes=3, odd=2.0)
    found = judge(STACK, made, prior)
    assert (found.rows, found.networks) == (24, 8)
    assert found.model["network"].coverage == held_out(made, prior, lambda row: row.network).coverage
    assert found.model["network"].coverage == pytest.approx(1 - 3 / 24, abs=0.13)


def test_a_table_of_one_network_has_no_coverage(prior: LatencyFit) -> None:
    made = [row for row in rows(prior, sizes=6) if row.network == "net1"]
    found = judge(STACK, made, prior)
    assert found.model["network"].coverage is None
    assert found.p_coverage == 1.0


# ---- a user's rows


def test_rows_of_one_family_say_nothing_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[1,WIDTH] x) => (float[1,WIDTH] y) { y = Elu(x) }'
    table = ["path,latency_ms,family"]
    for width in range(1, 8):
        onnx.save(onnx.parser.parse_model(text.replace("WIDTH", str(100 * width))), f"net{width}.onnx")
        table.append(f"net{width}.onnx,{width / 1e3},plain")
    Path("rows.csv").write_text("\n".join(table))
    assert main(["calibrate", "desktop_cpu/onnxruntime-fp32", "rows.csv", "--dry-run", "-q", "--json"]) == 0
    coverage = json.loads(capsys.readouterr().out)["coverage"]
    assert coverage["family"] is None
    assert 0 < coverage["network"] <= 1
    assert main(["calibrate", "desktop_cpu/onnxruntime-fp32", "rows.csv", "--dry-run", "-q"]) == 0
    lines = {line.split("  ")[0]: line.rstrip() for line in capsys.readouterr().out.splitlines()}
    share = f"{coverage['network']:.0%}"
    assert lines["fitted, one network left out"].endswith(share)
    assert len(lines["fitted, one family left out"]) < len(lines["fitted, one network left out"])
