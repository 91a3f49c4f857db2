"""`toolkit bench --write-rows`: networks measured here become rows that `toolkit calibrate` takes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from targets.graph import read_workload
from targets.latency import CAUSES, work_of
from targets.target import load_target, shipped_stack, shipped_target
from toolkit.calibration import specimens, writing
from toolkit.calibration.rows import COLUMNS, read_rows
from toolkit.calibration.setting import processor
from toolkit.calibration.specimens import SPECIMENS, Specimen
from toolkit.calibration.writing import write_rows
from toolkit.cli.main import main

pytestmark = pytest.mark.slow

STACK = "desktop_cpu/onnxruntime-fp32"
SIZES = {"separable": (64, 8), "recurrent": (8, 64), "attention": (32, 64, 1)}
SMALL = tuple(replace(s, size=SIZES[s.family]) for s in {s.family: s for s in SPECIMENS}.values() if s.family in SIZES)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Three small networks, timed for a moment; the names of those that were timed."""
    timed: list[str] = []
    real = writing._measure

    def measure(path: Path, *rest: Any) -> float:
        timed.append(path.name.rpartition("-")[0])
        return real(path, *rest)

    monkeypatch.setattr(writing, "_SECONDS", 0.0)
    monkeypatch.setattr(writing, "_measure", measure)
    monkeypatch.setattr(specimens, "SPECIMENS", SMALL)
    monkeypatch.chdir(tmp_path)
    load_target.cache_clear()
    yield timed
    load_target.cache_clear()


def rows_of(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_rows_are_those_that_calibrate_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--write-rows", "rows.csv", "-q"]) == 0
    said = capsys.readouterr().out
    assert "3 rows added, 0 were there" in said
    assert f"toolkit calibrate {STACK} rows.csv" in said
    table = rows_of("rows.csv")
    assert tuple(table[0]) == COLUMNS
    found = read_rows(Path("rows.csv"), shipped_target("desktop_cpu"), shipped_stack(STACK))
    assert [(row.model, row.family) for row in found.rows] == [(s.name, s.family) for s in SMALL]
    assert found.set_aside == ()
    assert found.setting["device_variant"] == processor()
    assert all(0 < row.latency_s < 1 for row in found.rows)
    for row, cells in zip(found.rows, table, strict=True):
        assert onnx.load(row.path).graph.node
        assert row.path.parent == tmp_path / "rows-models"
        assert cells["input_shape"] == "x".join(map(str, _input_shape(row.path)))


def _input_shape(path: Path) -> list[int]:
    return [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]


def test_what_was_measured_is_not_measured_again(quick: list[str]) -> None:
    write_rows("rows.csv")
    before = rows_of("rows.csv")
    assert len(quick) == 3
    lines = Path("rows.csv").read_text().splitlines(keepends=True)
    Path("rows.csv").write_text("".join(lines[:2]))  # as if it had been cut off after the first network
    again = write_rows("rows.csv")
    assert (again.kept, [row["model"] for row in again.measured]) == (1, [s.name for s in SMALL[1:]])
    assert [row["path"] for row in rows_of("rows.csv")] == [row["path"] for row in before]
    assert len(quick) == 5


@pytest.mark.parametrize("other", [{"threads": 2}, {"variant": "another"}])
def test_another_setting_is_measured_beside(other: dict[str, Any], quick: list[str]) -> None:
    write_rows("rows.csv")
    assert write_rows("rows.csv", **other).kept == 0
    assert len(rows_of("rows.csv")) == 6


def test_a_table_of_the_users_keeps_its_rows_and_columns() -> None:
    Path("rows.csv").write_text("path,latency_ms,colour\nmine.onnx,3.5,red\n")
    write_rows("rows.csv")
    table = rows_of("rows.csv")
    assert (table[0]["path"], table[0]["latency_ms"], table[0]["colour"]) == ("mine.onnx", "3.5", "red")
    assert len(table) == 4


def test_a_table_without_the_columns_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.csv").write_text("a,b\n1,2\n")
    assert main(["bench", "--write-rows", "rows.csv", "-q"]) == 5
    assert "lacks the column" in capsys.readouterr().err
    assert Path("rows.csv").read_text() == "a,b\n1,2\n"


def test_an_integer_stack_measures_quantized_networks(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--write-rows", "rows.csv", "--stack", "desktop_cpu/onnxruntime-int8", "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["precision"] == "int8"
    done = {row["model"]: row["path"] for row in document["measured"]}
    assert {entry["model"] for entry in document["skipped"]} == {s.name for s in SMALL} - set(done)
    assert "separable-64-8" in done
    for path in done.values():
        assert "QuantizeLinear" in {node.op_type for node in onnx.load(path).graph.node} or "MatMulInteger" in {
            node.op_type for node in onnx.load(path).graph.node
        }


def test_a_model_of_the_users_is_measured_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> g (int64[n,4] ids, float[n,4] x) => (float[n,4] y)
        { f = Cast<to = 1>(ids)  y = Add(f, x) }"""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    onnx.save(onnx.parser.parse_model(text), folder / "mine.onnx")
    arguments = ["bench", "--write-rows", "rows.csv", str(folder / "mine.onnx"), "-q"]
    assert main([*arguments, "--input", "ids=3x4:int64", "--input", "x=3x4"]) == 0
    (row,) = rows_of("rows.csv")
    assert row["model"] == "mine"
    assert row["input_shape"] == "ids=3x4:int64; x=3x4"
    assert [node.op_type for node in onnx.load(row["path"]).graph.node] == ["Cast", "Add"]
    (folder / "mine.onnx").write_bytes(b"changed")
    assert main(arguments) == 5, "what is not a model any more is not taken for the old one"


def test_a_size_that_varies_must_be_stated(capsys: pytest.CaptureFixture[str]) -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[n,width] x) => (float[n,width] y) { y = Elu(x) }'
    onnx.save(onnx.parser.parse_model(text), "varying.onnx")
    assert main(["bench", "--write-rows", "rows.csv", "varying.onnx", "-q"]) == 5
    assert "--input" in capsys.readouterr().err
    assert not Path("rows.csv").exists()


def test_a_folder_that_cannot_be_written_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main(["bench", "--write-rows", "file/rows.csv", "-q"]) == 5
    assert "cannot write" in capsys.readouterr().err


# ---- the built-in networks


def of_each_family() -> list[Specimen]:
    smallest: dict[str, Specimen] = {}
    for specimen in SPECIMENS:
        smallest.setdefault(specimen.family, specimen)
    return list(smallest.values())


@pytest.mark.parametrize("specimen", of_each_family(), ids=lambda s: s.name)
def test_a_built_in_network_is_valid_and_answers(specimen: Specimen) -> None:
    program = specimen.program()
    onnx.checker.check_model(onnx.load_model_from_string(program.onnx_bytes), full_check=True)
    (answer,) = program.run({"x": np.ones(program.signature.inputs[0].shape, np.float32)}).values()
    assert answer.shape == program.signature.outputs[0].shape
    assert np.isfinite(answer).all()
    assert np.abs(answer).max() > 1e-3, "numbers that fade become denormal, and slow"
    assert program.digest == specimen.program().digest


def test_built_in_networks_put_time_into_everything_that_has_a_cost() -> None:
    stack = shipped_stack(STACK)
    seen = {"fixed"}
    for specimen in of_each_family():
        for op in read_workload(specimen.program().static_model, fuses=stack.fuses).operators:
            assert op.op_class != "unknown"
            seen |= {cause for cause, work in work_of(op, stack.latency.lowering).items() if work}
    assert seen >= set(CAUSES) - {"winograd", "transforms"}, "onnxruntime has no Winograd convolutions"


def test_every_family_has_two_sizes_so_that_one_can_vouch_for_the_other() -> None:
    families = [specimen.family for specimen in SPECIMENS]
    assert all(families.count(family) >= 2 for family in families)
    assert len({specimen.name for specimen in SPECIMENS}) == len(SPECIMENS)
