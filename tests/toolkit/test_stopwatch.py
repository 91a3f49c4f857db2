"""`toolkit bench BUNDLE`: bundles run in turns, and stand beside an estimate only where it is of what ran."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import toolkit
from targets.errors import UsageError
from targets.target import load_stack
from toolkit import stopwatch
from toolkit.backends import BACKENDS
from toolkit.backends.ahead_of_time.backend import AheadOfTime
from toolkit.backends.ahead_of_time.machines import MACHINES
from toolkit.bundle.bundle import Bundle
from toolkit.cli.main import main
from toolkit.stopwatch import Timed, ratio, time_bundles


def timed(runs_s: list[float], **fields: Any) -> Timed:
    known = {
        "bundle": Path("b"), "stack": "s", "ran": "r", "machine": "m", "threads": 1, "first_s": 1.0,
        "estimate_s": (1.0, 0.5, 2.0), "provenance": "p", "incomparable": "",
    }  # fmt: skip
    return Timed(runs_s=runs_s, **{**known, **fields})


def test_an_interval_knows_that_neighbours_in_time_are_alike() -> None:
    """A machine that was twice as slow for half of the time says less than as many runs that were slow by chance."""
    chance = [1.0, 2.0, 1.0, 2.0, 1.5] * 400
    phases = [1.0] * 950 + [1.5] * 100 + [2.0] * 950

    def width(runs: list[float]) -> float:
        low, high = timed(runs).interval_s
        return high - low

    assert width(phases) > 5 * width(chance)


@pytest.mark.parametrize("runs", [1, 15, 100, 101, 5000])
def test_the_median_lies_in_its_interval(runs: int) -> None:
    found = timed(list(np.random.default_rng(runs).gamma(4.0, 1e-3, runs)))
    low, high = found.interval_s
    assert low <= found.latency_s <= high
    assert len(found.stretches_s) == min(runs, 100)
    assert found.slow_s >= found.latency_s


def test_what_slows_both_leaves_the_ratio() -> None:
    drift = np.linspace(1.0, 3.0, 300)
    value, (low, high) = ratio(timed(list(2e-3 * drift)), timed(list(1e-3 * drift)))
    assert value == pytest.approx(2.0)
    assert (low, high) == pytest.approx((2.0, 2.0))


class Recorder:
    """A backend that notes when it is loaded and asked."""

    name = "onnxruntime"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def runs_here(self, artifact: Path) -> str:
        return f"{artifact.name} in a test"

    def load(self, artifact: Path, *, threads: int = 1) -> Callable[[Any], dict[str, Any]]:
        self.seen.append(f"load {artifact.parent.name} {threads}")

        def call(sample: Any) -> dict[str, Any]:
            self.seen.append(artifact.parent.name)
            return {}

        return call


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("timed")
    names = {"float": "onnxruntime-fp32", "integers": "onnxruntime-int8"}
    float32, int8 = (
        toolkit.compile(target="desktop_cpu", stack=stack, output=folder / name) for name, stack in names.items()
    )
    return float32, int8


@pytest.mark.slow
def test_each_is_loaded_and_answers_then_all_run_in_turns(
    digits: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, done = Recorder(), []
    monkeypatch.setattr(stopwatch, "BACKENDS", {"onnxruntime": recorder})
    found = time_bundles(digits, threads=3, seconds=0.0, progress=lambda step, share: done.append((step, share)))
    loading = ["load float 3", "float", "load integers 3", "integers"]
    assert recorder.seen[:4] == loading
    turns = recorder.seen[4:]
    warm_ups = 3
    assert turns[: 2 * warm_ups] == ["float"] * warm_ups + ["integers"] * warm_ups
    assert turns[2 * warm_ups :] == ["float", "integers"] * 15
    assert [len(one.runs_s) for one in found] == [15, 15]
    assert done[-1] == ("running", 1.0)
    shares = [share for step, share in done if step == "running"]
    assert shares == sorted(shares)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"complete": False, "remaining": "convert it"}, "another runtime"),
        ({"checked": "not the file itself"}, "another runtime"),
        ({"format": "executable"}, "starting the program"),
    ],
)
def test_an_estimate_of_something_else_is_not_compared(
    digits: tuple[Bundle, Bundle], fields: dict[str, Any], why: str
) -> None:
    bundle = digits[0]
    artifact = {**bundle.manifest["artifact"], **fields}
    changed = Bundle(bundle.path, {**bundle.manifest, "artifact": artifact})
    found = time_bundles([changed], seconds=0.0)[0]
    assert why in found.incomparable
    assert bool(found.incomparable) == bool(why)
    after = bundle.report["after"]
    assert found.estimate_s == (after["latency_s"], *after["latency_interval_s"])


@pytest.mark.slow
def test_threads_and_kind_of_machine_count(digits: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "of 1 threads" in time_bundles([digits[0]], threads=2, seconds=0.0)[0].incomparable
    monkeypatch.setattr(stopwatch, "is_of_this_kind", lambda target: False)
    assert "another kind" in time_bundles([digits[0]], seconds=0.0)[0].incomparable


@pytest.mark.parametrize("emulator", [(), ("qemu-aarch64-static", "-cpu", "cortex-a72")])
def test_a_program_that_is_emulated_here_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, emulator: tuple[str, ...]
) -> None:
    machine = MACHINES["aarch64-cortex-a72"]
    monkeypatch.setattr(AheadOfTime, "load", lambda self, artifact, **_: SimpleNamespace(machine=machine))
    monkeypatch.setattr("toolkit.backends.ahead_of_time.backend.command", lambda machine: emulator)
    backend = BACKENDS["ahead_of_time"]
    if not emulator:
        assert backend.runs_here(Path("program")) == "program, started anew for each sample"
        return
    with pytest.raises(UsageError, match="emulated") as refusal:
        backend.runs_here(Path("program"))
    assert "--emulate" in refusal.value.hint


@pytest.mark.slow
def test_the_command(digits: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    float32, int8 = map(str, (bundle.path for bundle in digits))
    assert main(["bench", float32, int8, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["bundle"] for one in document["times"]] == [float32, int8]
    first, second = document["times"]
    assert document["of_the_first"][0]["ratio"] == pytest.approx(second["latency_s"] / first["latency_s"])
    low, high = document["of_the_first"][0]["interval"]
    assert low <= document["of_the_first"][0]["ratio"] <= high
    assert main(["bench", float32]) == 0
    said = capsys.readouterr().out
    stack = load_stack("desktop_cpu/onnxruntime-fp32")
    assert f"{float32}: model.onnx in onnxruntime" in said
    assert f"estimate for {stack.id}: " in said
    assert "the time of" not in said, "there is nothing beside it"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "no bundle was named"),
        (["nowhere"], 5, "nowhere is not a bundle"),
        (["nowhere", "--stack", "desktop_cpu/onnxruntime-fp32"], 2, "--stack is for --write-rows"),
        (["nowhere", "--variant", "mine"], 2, "--variant is for --write-rows"),
        (["nowhere", "--input", "1x3"], 2, "--input is for --write-rows"),
    ],
)
def test_bad_input(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == code
    assert said in capsys.readouterr().err
