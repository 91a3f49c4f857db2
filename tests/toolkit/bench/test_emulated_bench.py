"""The side-by-side bench of emulated stacks: its figures are those of the bundle, its rows can be read again."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from passes.dataset import Dataset
from toolkit.backends.ahead_of_time import Instructions
from toolkit.bench import emulated
from toolkit.bench.emulated import Row, emulated_rows, write_rows
from toolkit.bench.trained import Task
from toolkit.sources import load_source

pytestmark = pytest.mark.slow


def test_the_digits_program_is_as_right_as_float32_and_smaller_in_int8() -> None:
    stacks = ("raspberry_pi_4/program-fp32", "raspberry_pi_4/program-int8")
    floats, integers = emulated_rows(["digits"], stacks)
    assert floats.macs == integers.macs
    assert floats.samples == integers.samples > 300
    assert floats.agreement == 1.0
    assert integers.accuracy is not None
    assert floats.accuracy == floats.float_accuracy == integers.float_accuracy
    assert integers.accuracy >= floats.accuracy - 0.005
    assert integers.network_bytes < floats.network_bytes / 2
    assert floats.instructions is not None
    assert integers.instructions is not None
    assert integers.instructions.total < floats.instructions.total
    assert (floats.runner, floats.runner_passed, integers.runner_passed) == ("linked", True, True)
    assert floats.size_bytes < integers.runner_bytes < floats.runner_bytes


def test_a_network_that_is_not_installed_and_a_stack_that_cannot_be_emulated_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,4] x) => (float[1,4] y) { y = Elu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "elu.onnx")
    data = Dataset.of_arrays("zeros", {"x": np.zeros((2, 4), np.float32)})
    task = Task("elu", load_source(tmp_path / "elu.onnx").program, data, data)
    monkeypatch.setattr(emulated, "NETWORKS", {"none": lambda: None, "elu": lambda: task})
    missing, refused = emulated_rows(["none", "elu"], ["jetson_agx_orin/tensorrt-fp16-of-tomorrow"])
    assert "not installed" in missing.note
    assert "of-tomorrow" in refused.note
    assert refused.instructions is None


def test_a_runner_that_cannot_be_made_costs_the_row_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "relu.onnx")
    data = Dataset.of_arrays("ones", {"x": np.ones((2, 4), np.float32)})
    task = Task("relu", load_source(tmp_path / "relu.onnx").program, data, data)
    monkeypatch.setattr(emulated, "NETWORKS", {"relu": lambda: task})
    monkeypatch.setattr("toolkit.standalone.freezing.find_spec", lambda name: None)
    (row,) = emulated_rows(["relu"], ["desktop_cpu/onnxruntime-fp32"])
    assert (row.note, row.agreement, row.runner_passed, row.runner_bytes) == ("", 1.0, None, 0)
    assert "PyInstaller" in row.runner


def test_counts_can_be_read_again(tmp_path: Path) -> None:
    counted = Instructions(memory=5, branch=4, integer=3, vector=2, other=1)
    rows = [Row(network="a, b", stack="s", macs=7, instructions=counted), Row(network="c", stack="s", note="refused")]
    write_rows(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        (read,) = csv.DictReader(file)
    assert (read["network"], read["macs"], read["instructions"]) == ("a, b", "7", "15")
    assert Instructions(**{field.name: int(read[field.name]) for field in fields(Instructions)}) == counted


def test_an_unknown_network_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["emulated", "lenet"])
    with pytest.raises(SystemExit) as ended:
        emulated.main()
    assert ended.value.code == 2
    assert "unknown: lenet; known: efficientnet-lite0" in capsys.readouterr().err
