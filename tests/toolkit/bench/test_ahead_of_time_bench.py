"""The table of programs: one row for each network, machine and precision, with what is measured and what is not."""

from __future__ import annotations

import json

import pytest

from toolkit.bench import ahead_of_time
from toolkit.bench.ahead_of_time import Row, program_rows

pytestmark = pytest.mark.slow


def test_the_digits_in_both_precisions() -> None:
    floats, integers = program_rows(("digits",), ("aarch64-cortex-a72",))
    assert (floats.precision, integers.precision) == ("float32", "int8")
    assert floats.note == integers.note == ""
    assert 3.5 * integers.weight_bytes < floats.weight_bytes
    assert integers.executable_bytes < floats.executable_bytes
    assert floats.instructions is not None
    assert integers.instructions is not None
    assert integers.instructions < floats.instructions
    assert floats.sqnr_db is not None
    assert integers.sqnr_db is not None
    assert floats.sqnr_db > 100 > integers.sqnr_db > 25
    assert floats.agreement == integers.agreement == 1


def test_what_is_not_installed_is_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(ahead_of_time.NETWORKS, "digits", lambda: None)  # type: ignore[misc]
    monkeypatch.setattr("sys.argv", ["ahead_of_time", "digits", "--json"])
    ahead_of_time.main()
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["note"] == "what it needs is not installed: see README"
    monkeypatch.setattr("sys.argv", ["ahead_of_time", "digits"])
    ahead_of_time.main()
    assert "what it needs is not installed" in capsys.readouterr().out


def test_a_program_that_nothing_counts_has_no_instructions() -> None:
    row = Row(network="n", machine="x86_64", precision="int8", max_error=0.5, sqnr_db=30.0, agreement=1.0)
    assert " - " in ahead_of_time._line(row)


def test_a_network_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["ahead_of_time", "digitss"])
    with pytest.raises(SystemExit) as stop:
        ahead_of_time.main()
    assert stop.value.code == 2
