"""Instructions of an estimate: fitted to counts, found again where they are known, absent where none were counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from targets import overlay
from targets.cost import estimate
from targets.counts import count_of, counted_fit, fit_counts, prior_counts
from targets.errors import InvalidInput
from targets.fitting import Measured, predict
from targets.operators import Product
from targets.target import load_stack, load_target, target_names
from targets.workload import Operator, Workload

STACK = load_stack("raspberry_pi_4/program-fp32")
UNCOUNTED = load_stack("raspberry_pi_4/ncnn-fp32")
SIZES = ((64, 8), (256, 8), (1024, 16), (256, 32), (4096, 16), (1024, 64), (196, 128), (784, 64))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration folder of this test's own."""
    monkeypatch.setenv("TOOLKIT_CONFIG", str(tmp_path))
    overlay.own_fits.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    overlay.own_fits.cache_clear()


def convolution(number: int, rows: int, columns: int, taps: int) -> Operator:
    product = Product(rows=rows, depth=columns * taps, columns=columns, taps=taps)
    return Operator(
        name=f"conv{number}", op_type="Conv", op_class="conv3x3" if taps == 9 else "pointwise", dtype="float32",
        product=product, input_bytes=4 * rows * columns, output_bytes=4 * rows * columns,
        weight_bytes=4 * product.depth * columns, reads=(f"t{number}",), writes=(f"t{number + 1}",), rank=4,
    )  # fmt: skip


def network(rows: int, columns: int, layers: int = 4) -> Workload:
    operators = tuple(convolution(i, rows, columns, 9 if i % 2 else 1) for i in range(layers))
    sizes = {f"t{i}": 4 * rows * columns for i in range(layers + 1)}
    return Workload(
        name=f"{rows}x{columns}", operators=operators, tensor_bytes=sizes, inputs=("t0",), outputs=(f"t{layers}",)
    )


def counted(scale: float = 1.0) -> list[Measured]:
    """Counts of a processor that takes `scale` times what is expected before any was counted, a tenth more or less."""
    works = [network(*size) for size in SIZES]
    rows = [Measured(work.name, work.name.partition("x")[0], work, 1.0) for work in works]
    scales = [scale * 1.1 ** (-1) ** i for i in range(len(rows))]
    return [replace(row, latency_s=s * predict(row, prior_counts())) for s, row in zip(scales, rows, strict=True)]


def test_counts_are_predicted_of_networks_that_were_left_out() -> None:
    fit, by_network, by_family = fit_counts(counted(1.7), prior_counts(), STACK)
    assert (
        max(by_network.mape, by_family.mape) < 0.25
    )  # rows that are a tenth off, of which the largest is left out too
    assert predict(counted()[2], fit) == pytest.approx(counted(1.7)[2].latency_s, rel=0.1)
    assert "8 rows of 8 networks" in fit.provenance
    assert "QEMU" in fit.provenance
    assert "left out" in fit.provenance


def test_an_estimate_has_the_counts_of_its_stack_and_says_what_they_are(config: Path) -> None:
    fit, *_ = fit_counts(counted(2.0), prior_counts(), STACK)
    overlay.keep(STACK.target, STACK.name, fit, {}, overlay.COUNTED)
    found = estimate(network(512, 32), STACK)
    assert found.instructions is not None
    assert found.instructions_interval is not None
    truth = 2.0 * predict(Measured("", "", network(512, 32), 1.0), prior_counts())
    assert found.instructions == pytest.approx(truth, rel=0.1)
    assert found.instructions_interval[0] < truth < found.instructions_interval[1]
    assert found.instructions_provenance.startswith("your own counts: fitted on 8 rows")
    assert found.instructions_provenance.endswith("a count, no time")
    assert found.to_json()["instructions"] == found.instructions


def test_counts_change_no_latency(config: Path) -> None:
    before = estimate(network(512, 32), STACK)
    fit, *_ = fit_counts(counted(2.0), prior_counts(), STACK)
    overlay.keep(STACK.target, STACK.name, fit, {}, overlay.COUNTED)
    load_target.cache_clear()
    after = estimate(network(512, 32), load_stack(STACK.id))
    assert (after.latency_s, after.latency_interval_s, after.provenance) == (
        before.latency_s, before.latency_interval_s, before.provenance,
    )  # fmt: skip
    assert after.instructions != before.instructions
    assert overlay.forget(STACK.target, STACK.name, overlay.COUNTED)
    assert not (config / "counted").is_dir() or not list((config / "counted").iterdir())


def test_a_stack_without_counts_has_none() -> None:
    found = estimate(network(512, 32), UNCOUNTED)
    assert (found.instructions, found.instructions_interval, found.instructions_provenance) == (None, None, "")
    assert count_of(network(512, 32), UNCOUNTED) is None
    assert estimate(network(512, 32), STACK, quick=True).instructions is None


def test_what_lies_outside_of_those_counted_widens_the_interval(config: Path) -> None:
    fit, *_ = fit_counts(counted(), prior_counts(), STACK)
    overlay.keep(STACK.target, STACK.name, fit, {}, overlay.COUNTED)
    inside, outside = count_of(network(512, 32), STACK), count_of(network(65536, 128), STACK)
    depthwise = replace(
        network(512, 32),
        operators=tuple(replace(op, op_class="depthwise") for op in network(512, 32).operators),
    )
    unseen = count_of(depthwise, STACK)
    assert inside is not None
    assert outside is not None
    assert unseen is not None
    for count in (outside, unseen):
        low, high = count.interval
        assert high / low > 4 * inside.interval[1] / inside.interval[0]
        assert "outside of those counted" in count.provenance
    assert "outside" not in inside.provenance


def test_without_a_home_folder_nothing_is_kept_and_estimates_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOOLKIT_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", _no_home)
    overlay.own_fits.cache_clear()
    assert estimate(network(512, 32), UNCOUNTED).latency_s > 0
    fit, *_ = fit_counts(counted(), prior_counts(), STACK)
    with pytest.raises(InvalidInput, match="no home folder") as refusal:
        overlay.keep(STACK.target, STACK.name, fit, {}, overlay.COUNTED)
    assert "TOOLKIT_CONFIG" in refusal.value.hint
    overlay.own_fits.cache_clear()


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_damaged_file_of_counts_is_told(config: Path) -> None:
    fit, *_ = fit_counts(counted(), prior_counts(), STACK)
    file = overlay.keep(STACK.target, STACK.name, replace(fit, scatter=-1.0), {}, overlay.COUNTED)
    assert file == config / "counted" / "raspberry_pi_4.json"
    with pytest.raises(InvalidInput, match="your counts of raspberry_pi_4/program-fp32 are damaged") as refusal:
        estimate(network(512, 32), STACK)
    assert "--forget" in refusal.value.hint


def test_counts_that_are_shipped_were_fitted_and_give_finite_numbers() -> None:
    found = {}
    for name in target_names():
        for stack in load_target(name).stacks.values():
            if fitted := counted_fit(stack):
                found[stack.id] = fitted[0]
                count = count_of(network(512, 32), stack)
                assert count is not None
                assert np.isfinite(count.instructions)
                assert 0 < count.interval[0] < count.instructions < count.interval[1]
    assert {"raspberry_pi_4/program-fp32", "raspberry_pi_4/program-int8"} <= set(found)
    assert all(fit.rows >= 6 for fit in found.values())
