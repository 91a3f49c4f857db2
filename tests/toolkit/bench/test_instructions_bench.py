"""Counts as rows: what is shipped, what is counted anew, and a stack that a user fits to them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from targets import overlay
from targets.target import load_stack
from toolkit.bench import instructions
from toolkit.bench.instructions import NETWORKS, STACKS, count, shipped_rows, write_counts
from toolkit.calibration.counted import COLUMNS, calibrate_counts
from toolkit.cli.main import main

PROGRAM = "raspberry_pi_4/program-int8"
SMALL = NETWORKS[:6]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TOOLKIT_CONFIG", str(tmp_path / "config"))
    overlay.own_fits.cache_clear()
    yield tmp_path / "config"
    monkeypatch.undo()
    overlay.own_fits.cache_clear()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rows of small networks, as if each multiply-accumulate took two instructions."""
    folder = tmp_path / "rows"
    folder.mkdir()
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as stream:
        rows = csv.DictWriter(stream, COLUMNS)
        rows.writeheader()
        for specimen in SMALL:
            onnx.save(specimen.model(), folder / f"{specimen.name}.onnx")
            macs = sum(op.macs for op in specimen_work(specimen).operators)
            rows.writerow(
                dict.fromkeys(COLUMNS, "0")
                | {"stack": PROGRAM, "model": specimen.name, "family": specimen.family, "instructions": 2 * macs}
                | {"path": f"rows/{specimen.name}.onnx"}
            )
    return file


def specimen_work(specimen):  # type: ignore[no-untyped-def]
    from targets.graph import read_workload

    return read_workload(specimen.program().static_model)


@pytest.mark.slow
def test_every_stack_has_rows_that_can_be_read_again() -> None:
    for name in STACKS:
        rows = shipped_rows(load_stack(name))
        assert len(rows) >= 12, name
        assert len({row.network for row in rows}) == len(rows), name
        assert all(row.latency_s > 0.01 * row.workload.macs for row in rows), name


@pytest.mark.slow
def test_a_user_fits_a_stack_to_counts_and_estimates_say_so(
    table: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", PROGRAM, str(table), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["schema"], said["rows"], said["stack"]) == ("toolkit.calibrate.counts/1", len(SMALL), PROGRAM)
    assert said["errors"]["network"] < 0.6
    assert Path(said["file"]).parent == config / "counted"

    assert main(["estimate", "digits", "-t", PROGRAM.split("/")[0], "--stack", PROGRAM.split("/")[1], "-q"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("executes"))
    assert "instructions  your own counts: fitted on 6 rows" in line

    assert main(["calibrate", PROGRAM, "--forget"]) == 0
    assert "dropped" in capsys.readouterr().out
    assert not (config / "counted" / "raspberry_pi_4.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instructions": "many"}, "'many' is no number of instructions"),
        ({"instructions": "0"}, "'0' is no number of instructions"),
        ({"path": "rows/gone.onnx"}, "there is no rows/gone.onnx beside the table"),
        (
            {"stack": "raspberry_pi_4/program-fp32"},
            "holds 5 counts of 5 networks for this stack; 1 are of other stacks",
        ),
    ],
)
def test_a_wrong_line_is_named(
    table: Path, config: Path, change: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = list(csv.DictReader(table.open(newline="")))
    lines[2] |= change
    with table.open("w", newline="") as stream:
        rows = csv.DictWriter(stream, COLUMNS)
        rows.writeheader()
        rows.writerows(lines)
    assert main(["calibrate", PROGRAM, str(table), "-q"]) == 5
    assert said in capsys.readouterr().err
    assert not config.exists()


@pytest.mark.slow
def test_a_dry_run_writes_nothing(table: Path, config: Path) -> None:
    found = calibrate_counts(PROGRAM, table, dry_run=True)
    assert (found.file, config.exists()) == (None, False)
    assert found.fit.rows == len(SMALL)


@pytest.mark.slow
def test_networks_are_counted_alike_each_time_and_as_the_rows_say(tmp_path: Path) -> None:
    known = {row.network: row.latency_s for row in shipped_rows(load_stack("raspberry_pi_4/program-fp32"))}
    (first,) = count("raspberry_pi_4/program-fp32", [NETWORKS[6]])
    assert first.instructions is not None
    assert first.instructions.total == pytest.approx(known[NETWORKS[6].name], rel=0.05)  # compilers differ a little


@pytest.mark.slow
def test_the_table_that_is_written_is_one_that_can_be_fitted_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instructions, "NETWORKS", NETWORKS[6:7])
    monkeypatch.setattr(instructions.count, "__defaults__", (NETWORKS[6:7],))
    write_counts(["raspberry_pi_4/program-fp32"], tmp_path / "counts.csv")
    (row,) = csv.DictReader((tmp_path / "counts.csv").open(newline=""))
    assert tuple(row) == COLUMNS
    assert onnx.load(tmp_path / row["path"]).graph.name == NETWORKS[6].name
    kinds = sum(int(row[kind]) for kind in ("memory", "branch", "integer", "vector", "other"))
    assert kinds == int(row["instructions"]) > 0
    assert main(["calibrate", "raspberry_pi_4/program-fp32", str(tmp_path / "counts.csv"), "-q"]) == 5
    assert "holds 1 counts of 1 networks" in capsys.readouterr().err
