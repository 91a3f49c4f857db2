"""`toolkit calibrate`: a stack fitted to a user's rows is the one that every later estimate is made with."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from targets import overlay
from targets.fitting import predict
from targets.latency import LatencyFit
from targets.target import digest_of, load_stack, load_target, shipped_stack, shipped_target
from toolkit.calibration.calibrating import calibrate
from toolkit.calibration.reading import read
from toolkit.calibration.refit import FEWEST_ROWS, start_of
from toolkit.calibration.rows import Row
from toolkit.calibration.specimens import SPECIMENS
from toolkit.cli.main import main

STACK = "desktop_cpu/onnxruntime-fp32"
TWIN = "desktop_cpu/onnxruntime-int8"
SIZES = {
    "plain": ((64, 4), (64, 8), (96, 8)), "perceptron": ((128, 2), (256, 3), (512, 2)),
    "recurrent": ((8, 64), (16, 128), (32, 64)), "separable": ((64, 8), (160, 4)), "fire": ((64, 8),),
}  # fmt: skip
"""Of the built-in networks those of few operators, in small: every calibration here reads them all."""

WRITERS = {specimen.family: specimen for specimen in SPECIMENS}
NETWORKS = [replace(WRITERS[family], size=size) for family, sizes in SIZES.items() for size in sizes]
SLOWER = 3.0  # the user's machine, in every cost
Table = list[dict[str, str]]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration folder of this test's own."""
    folder = tmp_path / "config"
    monkeypatch.setenv("TOOLKIT_CONFIG", str(folder))
    _read_anew()
    yield folder
    monkeypatch.undo()
    _read_anew()


def _read_anew() -> None:
    overlay.own_fits.cache_clear()
    load_target.cache_clear()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table]:
    """A folder of small networks, and the rows of a machine whose every cost is SLOWER times the shipped stack's."""
    folder = tmp_path_factory.mktemp("measured")
    stack = shipped_stack(STACK)
    truth = slower(stack.latency, SLOWER)
    table = []
    for specimen in NETWORKS:
        path = folder / f"{specimen.name}.onnx"
        onnx.save(specimen.model(), path)
        row = Row(line=0, model=specimen.name, family=specimen.family, path=path, input_shape="", latency_s=1.0)
        table.append(
            {
                "model": specimen.name,
                "family": specimen.family,
                "device": "Desktop CPU",
                "device_variant": "mine",
                "runtime": "onnxruntime 1.29",
                "precision": "fp32",
                "threads": "1",
                "batch": "1",
                "input_shape": "",
                "path": path.name,
                "latency_ms": f"{predict(read(row, stack), truth) * 1e3:.6g}",
            }
        )
    return folder, table


def slower(fit: LatencyFit, factor: float) -> LatencyFit:
    return replace(fit, costs={cause: factor * cost for cause, cost in fit.costs.items()})


def write(path: Path, table: Table) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


@pytest.fixture
def rows(measured: tuple[Path, Table]) -> Callable[..., Path]:
    """Writes the table, changed by what is given, beside the networks."""

    def make(change: Callable[[Table], Any] = lambda table: None) -> Path:
        folder, table = measured
        changed = [dict(row) for row in table]
        change(changed)
        return write(folder / "rows.csv", changed)

    return make


# ---- what a calibration does


@pytest.mark.slow
def test_later_estimates_are_those_of_the_users_machine(
    rows: Callable[..., Path], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = estimate(capsys)
    digest, key = load_stack(STACK).digest(), digest_of(load_stack(TWIN))
    assert main(["calibrate", STACK, str(rows()), "-q"]) == 0
    said = capsys.readouterr().out
    after = estimate(capsys)
    assert after["latency_s"] == pytest.approx(SLOWER * before["latency_s"], rel=0.05)
    assert after["provenance"].startswith("your own calibration: fitted on ")
    assert "Desktop CPU, mine, onnxruntime 1.29" in after["provenance"]
    assert "onnxruntime 1.29" in after["runtime"]
    assert not before["provenance"].startswith("your own")
    assert load_stack(STACK).digest() != digest
    assert digest_of(load_stack(TWIN)) != key, "it asks its float32 stack, so what is kept for it is outdated too"
    assert [path.name for path in config.rglob("*.json")] == ["desktop_cpu.json"]
    for words in ("one network left out", "one family left out", "costs as they were", str(config)):
        assert words in said
    assert main(["targets"]) == 0
    assert "measured rows of your own" in capsys.readouterr().out
    assert main(["calibrate", STACK, "--forget"]) == 0
    assert "dropped" in capsys.readouterr().out
    assert estimate(capsys) == before
    assert (load_stack(STACK).digest(), digest_of(load_stack(TWIN))) == (digest, key)
    assert list(config.rglob("*.json")) == []
    assert main(["calibrate", STACK, "--forget", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forgotten"] is False


def estimate(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["estimate", "digits", "--stack", STACK, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_every_document_names_what_a_stack_was_measured_as(
    rows: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    calibrate(STACK, rows())
    assert main(["targets", "desktop_cpu", "--json"]) == 0
    found = {s["id"]: s for s in json.loads(capsys.readouterr().out)["targets"][0]["stacks"]}[STACK]
    assert found["own_calibration"] == "used"
    assert found["measured_as"] == {
        "device": "Desktop CPU", "device_variant": "mine", "runtime": "onnxruntime 1.29", "precision": "fp32",
        "threads": "1", "batch": "1",
    }  # fmt: skip


def test_networks_that_were_left_out_are_told_with_their_errors(rows: Callable[..., Path]) -> None:
    def spoil(table: Table) -> None:
        table[3]["latency_ms"] = str(2 * float(table[3]["latency_ms"]))

    found = calibrate(STACK, rows(spoil))
    told = found.predictions()
    assert [row["line"] for row in told] == list(range(2, len(told) + 2))
    assert told[3]["without_network_s"] / told[3]["measured_s"] == pytest.approx(0.5, abs=0.1)
    others = [row["without_network_s"] / row["measured_s"] for i, row in enumerate(told) if i != 3]
    assert np.median(others) == pytest.approx(1, abs=0.1)
    assert found.errors["network"].within_20 < 1
    assert found.errors["unchanged"].mape == pytest.approx(1 - 1 / SLOWER, abs=0.1)


def test_a_dry_run_writes_nothing(rows: Callable[..., Path], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", STACK, str(rows()), "--dry-run", "-q"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert not config.exists()
    assert load_stack(STACK) == shipped_stack(STACK)


@pytest.mark.slow
def test_a_second_calibration_starts_where_the_first_did(rows: Callable[..., Path]) -> None:
    first = calibrate(STACK, rows()).refit.fit
    assert calibrate(STACK, rows()).refit.fit == first


@pytest.mark.slow
def test_calibrations_of_several_stacks_live_side_by_side(rows: Callable[..., Path]) -> None:
    def unnamed(table: Table) -> None:
        del table[FEWEST_ROWS:]
        for row in table:
            for column in ("device", "runtime", "threads", "precision"):
                row[column] = ""

    calibrate(STACK, rows())
    calibrate(TWIN, rows(unnamed))
    assert [load_target("desktop_cpu").stack(n).own_calibration for n in ("onnxruntime-fp32", "onnxruntime-int8")] == [
        "used", "used",
    ]  # fmt: skip
    assert load_stack("desktop_cpu/i7-12700h-pytorch-fp32").own_calibration == ""


@pytest.mark.slow
def test_an_uncalibrated_stack_starts_from_its_data_sheet(rows: Callable[..., Path]) -> None:
    def on_a_board(table: Table) -> None:
        del table[FEWEST_ROWS:]
        for row in table:
            row |= {"device": "raspberry_pi_5", "device_variant": "8 GB", "threads": "4"}

    found = calibrate("raspberry_pi_5/onnxruntime-fp32", rows(on_a_board))
    assert found.started_from.startswith("uncalibrated: ")
    assert load_stack("raspberry_pi_5/onnxruntime-fp32").provenance.startswith("your own calibration: fitted on ")
    assert not load_stack("raspberry_pi_5/onnxruntime-int8").latency.calibrated


def test_a_start_lets_a_machine_be_faster_as_a_whole_more_easily_than_in_one_cost() -> None:
    target = shipped_target("desktop_cpu")
    known = np.array(target.stack("onnxruntime-fp32").latency.covariance)
    freed = np.array(start_of(target, target.stack("onnxruntime-fp32")).covariance) - known
    everything, one = np.ones(len(freed)), np.eye(len(freed))[0]
    precision = np.linalg.inv(freed)
    assert everything @ precision @ everything < 1.2 < one @ precision @ one


# ---- rows that are not used, and rows that are wrong


def test_rows_of_another_stack_are_told_and_not_pooled(
    rows: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def mix(table: Table) -> None:
        for row, (column, value) in zip(
            table,
            [("device", "Jetson Nano"), ("runtime", "ncnn"), ("precision", "int8"), ("threads", "4"), ("batch", "8")],
            strict=False,
        ):
            row[column] = value

    assert main(["calibrate", STACK, str(rows(mix)), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["line"] for entry in document["set_aside"]] == [2, 3, 4, 5, 6]
    for entry, word in zip(document["set_aside"], ["Jetson Nano", "ncnn", "int8", "threads", "batch"], strict=True):
        assert word in entry["reason"]
    assert {row["line"] for row in document["predictions"]}.isdisjoint(range(2, 7))
    assert document["rows"] == len(document["predictions"])


def _set(column: str, value: str, line: int = 0) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        table[line][column] = value

    return change


def _drop(column: str) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        for row in table:
            del row[column]

    return change


def _keep(count: int) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        del table[count:]

    return change


def _everywhere(column: str, value: str) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        for row in table:
            row[column] = value

    return change


WRONG = [
    (_drop("path"), "lacks the column path"),
    (_drop("latency_ms"), "lacks the column latency_ms"),
    (_set("latency_ms", "-3"), "line 2: latency_ms -3 is not more than zero"),
    (_set("latency_ms", "0"), "not more than zero"),
    (_set("latency_ms", "nan"), "latency_ms is nan"),
    (_set("latency_ms", "inf"), "latency_ms is inf"),
    (_set("latency_ms", "1,5"), "'1,5' is not a number"),
    (_set("latency_ms", ""), "is not a number"),
    (_set("path", ""), "its path is empty"),
    (_set("path", "gone.onnx"), "there is no file gone.onnx"),
    (_set("path", "../rows.onnx"), "leaves the table's folder"),
    (_set("path", "/etc/hostname"), "leaves the table's folder"),
    (_set("path", "rows.csv"), "line 2, rows.csv: "),
    (_set("device_variant", "another machine"), "rows of 2 settings"),
    (_set("runtime", "onnxruntime 1.30"), "rows of 2 settings"),
    (_set("input_shape", "1x3x5x5"), "fits no input"),
    (_set("input_shape", "1xx5"), "1xx5"),
    (_keep(5), "holds 5 rows of 5 networks"),
    (_everywhere("model", "one"), "of 1 networks"),
    (_everywhere("precision", "int8"), "holds 0 rows"),
    (lambda table: table.append(dict(table[4])), "is in line 6 already"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words for _, words in WRONG])
def test_a_wrong_table_is_refused_and_nothing_is_written(
    change: Callable[[Table], Any], words: str, rows: Callable[..., Path], config: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["calibrate", STACK, str(rows(change)), "-q"]) == 5
    problem, step = capsys.readouterr().err.splitlines()
    assert words in problem
    assert step.startswith("  next: ")
    assert not config.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "lacks the column path and latency_ms"),
        (b"path,latency_ms\n", "holds 0 rows"),
        (b"path,latency_ms\na.onnx\n", "line 2: it does not have 2 cells"),
        (b"path,latency_ms\na.onnx,1,2\n", "line 2: it does not have 2 cells"),
        (b"path;latency_ms\na.onnx;1\n", "lacks the column"),
        (b"\xff\xfe\x00\x01", "not a table of text"),
        (b'path,latency_ms\n"a.onnx,1\n', "not a table of text"),
    ],
)
def test_what_is_no_table_is_refused(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    assert main(["calibrate", STACK, str(tmp_path / "rows.csv"), "-q"]) == 5
    assert words in capsys.readouterr().err


def test_a_link_out_of_the_folder_is_refused(
    tmp_path: Path, measured: tuple[Path, Table], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = measured
    (tmp_path / "link.onnx").symlink_to(folder / table[0]["path"])
    path = write(tmp_path / "rows.csv", [{"path": "link.onnx", "latency_ms": "1"}])
    assert main(["calibrate", STACK, str(path), "-q"]) == 5
    assert "leaves the table's folder" in capsys.readouterr().err


def varying(path: Path) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, "height", "width"])
    w = helper.make_tensor("w", TensorProto.FLOAT, (8, 3, 3, 3), np.ones(216, np.float32).tolist())
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [w]), ir_version=10)
    model.opset_import[0].version = 18
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_a_size_that_varies_is_stated_in_the_table(rows: Callable[..., Path], measured: tuple[Path, Table]) -> None:
    path = varying(measured[0] / "varying.onnx")

    def add(table: Table, shape: str = "1x3x64x96") -> None:
        table.append({**table[0], "model": "varying", "path": path.name, "input_shape": shape})

    found = calibrate(STACK, rows(add))
    assert found.used[-1].model == "varying"
    work = read(found.used[-1], shipped_stack(STACK)).workload
    assert work.macs == 64 * 96 * 8 * 27


def test_a_size_that_varies_and_is_not_stated_is_refused(
    rows: Callable[..., Path], measured: tuple[Path, Table], capsys: pytest.CaptureFixture[str]
) -> None:
    varying(measured[0] / "varying.onnx")
    assert main(["calibrate", STACK, str(rows(_set("path", "varying.onnx"))), "-q"]) == 5
    said = capsys.readouterr().err
    assert "varies" in said
    assert "input_shape" in said


# ---- the file in the configuration folder


@pytest.fixture(scope="module")
def calibration(measured: tuple[Path, Table], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file that a calibration writes."""
    folder, table = measured
    config = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLKIT_CONFIG", str(config))
        _read_anew()
        found = calibrate(STACK, write(folder / "rows.csv", table))
        _read_anew()
    assert found.file is not None
    return found.file.read_text("utf-8")


@pytest.fixture
def kept(calibration: str, config: Path) -> Path:
    path = config / "calibration" / "desktop_cpu.json"
    path.parent.mkdir(parents=True)
    path.write_text(calibration, "utf-8")
    return path


def _damage(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document["onnxruntime-fp32"])
    path.write_text(json.dumps(document), "utf-8")
    _read_anew()


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.pop("latency"),
        lambda entry: entry.pop("stack"),
        lambda entry: entry["latency"].pop("costs"),
        lambda entry: entry["latency"]["costs"].pop("launch"),
        lambda entry: entry["latency"]["costs"].update(launch=-1.0),
        lambda entry: entry["latency"]["costs"].update(launch=float("nan")),
        lambda entry: entry["latency"]["costs"].update(launch="fast"),
        lambda entry: entry["latency"]["covariance"].pop(),
        lambda entry: entry["stack"].update(colour="red"),
    ],
)
def test_a_damaged_calibration_is_refused_by_name_and_can_be_dropped(
    change: Callable[[dict[str, Any]], Any], kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _damage(kept, change)
    assert main(["targets"]) == 5
    assert f"toolkit calibrate {STACK} --forget" in capsys.readouterr().err
    assert main(["calibrate", STACK, "--forget"]) == 0
    assert main(["targets"]) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"onnxruntime-fp32": 3}'])
def test_a_damaged_file_of_calibrations_is_refused(text: str, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept.write_text(text)
    _read_anew()
    assert main(["targets"]) == 5
    assert "desktop_cpu.json" in capsys.readouterr().err


def test_a_calibration_of_another_version_is_told_and_not_used(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _damage(kept, lambda entry: entry.update(version="of before"))
    stack, shipped = load_stack(STACK), shipped_stack(STACK)
    assert stack.latency == shipped.latency
    assert stack.own_calibration == "outdated"
    assert stack.provenance.startswith(shipped.provenance)
    assert "repeat it" in stack.provenance
    assert main(["targets"]) == 0
    assert "your own are outdated" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_said(
    rows: Callable[..., Path], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("a file")
    assert main(["calibrate", STACK, str(rows()), "-q"]) == 5
    assert "TOOLKIT_CONFIG" in capsys.readouterr().err


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert overlay.config_folder() == tmp_path / "config"
    monkeypatch.delenv("TOOLKIT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert overlay.config_folder() == tmp_path / "edge-toolkit"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert overlay.config_folder() == tmp_path / "home" / ".config" / "edge-toolkit"
