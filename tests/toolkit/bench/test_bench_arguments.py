"""What is asked of a benchmark in vain is told before anything is measured."""

from __future__ import annotations

import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest

import toolkit.bench
import toolkit.bench.training_cost.__main__ as training_cost
from toolkit.bench import archive

FOLDER = Path(toolkit.bench.__file__).parent
COMMANDS = sorted(
    path
    for path in (*FOLDER.glob("*.py"), *FOLDER.glob("*/__main__.py"))
    if '__name__ == "__main__"' in path.read_text("utf-8") and not path.stem.startswith("foreign")
)


@pytest.mark.parametrize("name", ["calibrate", "estimate_speed", "estimates"])
@pytest.mark.parametrize(("given", "code"), [("--help", 0), ("raspbery_pi_4", 2), ("--jsn", 2)])
def test_help_and_slips_measure_nothing(
    name: str, given: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"toolkit.bench.{name}")
    for work in {"measure", "calibrate", "report"} & set(vars(module)):
        monkeypatch.setattr(module, work, lambda *_: pytest.fail("something is measured"))
    with pytest.raises(SystemExit) as ended:
        module.main([given])
    assert ended.value.code == code
    said = capsys.readouterr()
    assert f"usage: python -m toolkit.bench.{name}" in said.out + said.err
    if given == "raspbery_pi_4" and name != "estimate_speed":
        assert "did you mean 'raspberry_pi_4'?" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_benchmark_has_help(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_without_a_peer_there_is_nothing_to_compare_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ribs", None)
    assert archive.main([]) == 3
    said = capsys.readouterr().err
    assert "error: pyribs is not installed" in said
    assert "next: pip install" in said


def test_what_was_not_asked_for_has_no_true_factor(capsys: pytest.CaptureFixture[str]) -> None:
    assert training_cost.main(["koopman", "--recorded"]) == 0
    said = capsys.readouterr().out
    assert "  data               claimed   10x, not asked for" in said
    assert ", of what was asked for alone" in said
