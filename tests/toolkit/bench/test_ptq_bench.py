"""The bench of quantization after training: its rows, and on real networks what the repairs promise."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from passes.compare import compare
from passes.context import Context
from passes.dataset import Dataset
from passes.onnx_level.correct_bias import CorrectBias
from passes.onnx_level.round_adaptively import RoundAdaptively
from passes.recipe import float32
from passes.running import run
from targets.target import load_stack
from toolkit.bench.ptq import COMPILED, FLOAT, RECIPE, Compared, Row, compare_networks, ways
from toolkit.bench.trained import TASKS
from toolkit.bench.voice import frames

pytestmark = pytest.mark.slow

X86 = "desktop_cpu/onnxruntime-int8"


@pytest.fixture(scope="module")
def compared() -> Compared:
    (found,) = compare_networks(["digits"])
    return found


@pytest.fixture(scope="module")
def rows(compared: Compared) -> dict[str, Row]:
    return {row.way: row for row in compared.rows}


def test_every_way_has_a_row(rows: dict[str, Row]) -> None:
    ours = {FLOAT, RECIPE, COMPILED, *ways(load_stack(X86))}
    assert {way for way, row in rows.items() if not row.theirs} == ours
    assert not [row for row in rows.values() if row.note and not row.theirs]
    for way in (*ours, "onnxruntime static", "onnxruntime dynamic"):
        row = rows[way]
        assert (row.sqnr_db is None) == (way == FLOAT)
        assert row.accuracy is not None
        assert row.accuracy > 0.97
        assert row.agreement is not None
        assert row.agreement > 0.98
        assert row.latency_share[1] <= row.latency_share[0] <= row.latency_share[2]


def test_digits_are_read_as_well_and_from_fewer_bytes(compared: Compared) -> None:
    assert {verdict.respect for verdict in compared.verdicts} == {"right answers", "bytes", "latency"}
    assert not [v for v in compared.verdicts if v.worse and v.respect != "latency"]  # times are for quiet machines


def test_repaired_int8_is_nearer_than_either_plain_one(rows: dict[str, Row]) -> None:
    near = {way: row.sqnr_db for way, row in rows.items() if row.sqnr_db is not None}
    for repair in ("CorrectBias", "RoundAdaptively"):
        assert near[repair] > near["int8"]
        assert near[repair] > near["onnxruntime static"]
        assert rows[repair].size_bytes <= rows["int8"].size_bytes < rows["onnxruntime static"].size_bytes


def test_a_network_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "absent", lambda: None)
    (compared,) = compare_networks(["absent"])
    assert "not installed" in compared.rows[0].note


def test_frames_of_speech_carry_the_end_of_the_one_before() -> None:
    signal = np.arange(32 * 512 + 700, dtype=np.float32)
    (piece,) = frames(signal)
    assert piece.shape == (32, 576)
    np.testing.assert_array_equal(piece[0, :65], [0.0] * 65)
    np.testing.assert_array_equal(piece[3], np.arange(3 * 512 - 64, 4 * 512))


@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="README, block real-networks, installs the weights"
)
def test_repairs_of_efficientnet_hold_on_other_photographs() -> None:
    """Calibrated on eight pictures, asked about crops of others."""
    task = TASKS["efficientnet-lite0"]()
    assert task is not None
    samples = list(task.asked)[::5]  # of each picture two crops
    asked = Dataset("other photographs", lambda: samples, len(samples))
    ctx = Context(stack=load_stack(X86), data=task.calibration.take(24))
    ready = run(float32(ctx.stack, task.program.level), task.program, ctx).program
    (plain,) = ways(ctx.stack)["int8"]
    start = plain.apply(ready, ctx)
    truth = [next(iter(a.values())).argmax() for a in ready.answers(asked)]
    near, same = {}, {}
    for name, program in {
        "int8": start,
        "biases": CorrectBias().apply(start, ctx),
        "weights": RoundAdaptively(samples=8).apply(start, ctx),
    }.items():
        near[name] = compare(ready, program, asked)[0].sqnr_db
        answers = [next(iter(a.values())).argmax() for a in program.answers(asked)]
        same[name] = float(np.mean([a == b for a, b in zip(truth, answers, strict=True)]))
    assert near["biases"] > near["int8"] + 2
    assert near["weights"] > near["int8"] + 2
    assert min(same["biases"], same["weights"]) >= same["int8"] - 1 / 24
