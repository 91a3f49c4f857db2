"""The kernels' table: what is wrong or was not measured has no figures, and says so."""

from __future__ import annotations

import json
import time
from importlib import import_module

import pytest
import torch

from kernels import KernelUnavailable
from toolkit.bench.kernels.__main__ import OPERATORS, main
from toolkit.bench.kernels.case import Case, Ways
from toolkit.bench.kernels.measuring import measure
from toolkit.bench.kernels.showing import line, markdown_line

pytestmark = pytest.mark.slow

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is printed where there is no GPU")


def _case(error: float, kind: str = "cpu") -> Case:
    def prepare(device: torch.device) -> Ways:
        return Ways(
            ours=lambda: time.sleep(1e-3), peers={"twice": lambda: time.sleep(2e-3)}, error=lambda: (error, 1e-3)
        )

    return Case(operator="nothing", shape="(3,)", kind=kind, prepare=prepare, bytes_moved=12, goals={"twice": 1.5})


def test_a_right_answer_is_timed_beside_its_peers() -> None:
    row = measure(_case(1e-4))
    assert row.time is not None
    assert row.time.lower_s <= row.time.median_s <= row.time.upper_s
    low, middle, high = row.ratios["twice"]
    assert low <= middle <= high
    assert row.bytes_s == pytest.approx(12 / row.time.median_s)
    assert "twice" in line(row)
    assert "goal 1.5" in markdown_line(row)
    assert markdown_line(row).count(" | ") == 6


@pytest.mark.parametrize("error", [2e-3, float("nan")])
def test_a_wrong_answer_has_no_time_and_no_ratio(error: float) -> None:
    row = measure(_case(error))
    assert (row.time, row.ratios) == (None, {})
    assert "WRONG" in line(row)
    assert markdown_line(row).count(" | ") == 6


@NO_GPU
def test_without_a_gpu_its_rows_say_so() -> None:
    assert measure(_case(0.0, "cuda")).note == "not measured: no CUDA device"


def test_what_is_missing_is_named() -> None:
    def prepare(device: torch.device) -> Ways:
        raise KernelUnavailable("Triton is not installed")

    case = Case(operator="nothing", shape="", kind="cpu", prepare=prepare)
    assert measure(case).note == "not measured: Triton is not installed"


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_cases_on_a_gpu_and_here(name: str) -> None:
    found = list(import_module(f"toolkit.bench.kernels.{name}").cases())
    assert {case.kind for case in found} == {"cpu", "cuda"}
    assert len({(case.operator, case.shape, case.kind) for case in found}) == len(found)
    assert all(case.flop or case.bytes_moved for case in found)


@NO_GPU
def test_the_document_holds_every_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.bench.kernels.clock._SECONDS", 0.0)
    assert main(["--json", "correlation"]) == 0
    document = json.loads(capsys.readouterr().out)
    cases = list(import_module("toolkit.bench.kernels.correlation").cases())
    assert len(document["rows"]) == len(cases)
    assert document["versions"]["torch"] == torch.__version__
    assert [row["note"] == "not measured: no CUDA device" for row in document["rows"]] == [
        case.kind == "cuda" for case in cases
    ]
