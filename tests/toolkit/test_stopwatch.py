"""`toolkit bench BUNDLE`: bundles run in turns, and stand beside an estimate only where it is of what ran."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from targets.errors import InvalidInput, MissingDependency, UsageError
from toolkit import stopwatch
from toolkit.backends import BACKENDS
from toolkit.backends.ahead_of_time.backend import AheadOfTime
from toolkit.backends.ahead_of_time.machines import MACHINES
from toolkit.backends.litert import runtime
from toolkit.bundle.bundle import Bundle, open_bundle
from toolkit.bundle.hashes import hashes_of
from toolkit.bundle.layout import MANIFEST
from toolkit.cli.main import main
from toolkit.cli.output import EXTRAPOLATED
from toolkit.cli.times import show_times
from toolkit.stopwatch import Stopwatch, Timed, ratio


def timed(medians_s: list[float], **fields: Any) -> Timed:
    known = {
        "bundle": Path("b"), "stack": "board/stack", "ran": "model.onnx in a runtime", "machine": "a machine",
        "threads": 1, "firsts_s": [0.5, 0.1, 0.2], "estimate_s": (1e-3, 0.5e-3, 2e-3), "provenance": "fitted on rows",
        "extrapolated": False,
        "incomparable": "",
    }  # fmt: skip
    return Timed(loads_s=[[s] for s in medians_s], **{**known, **fields})


NINE = [1.5e-3, 1.1e-3, 1.2e-3, 1.3e-3, 1.4e-3, 1.6e-3, 1.7e-3, 1.8e-3, 9e-3]


# ---- figures


def test_one_load_that_was_disturbed_is_outside_of_the_interval() -> None:
    found = timed(NINE)
    assert found.latency_s == pytest.approx(1.5e-3)
    assert found.interval_s == (1.2e-3, 1.8e-3)
    assert found.first_s == 0.2


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    """Second to eighth of nine: 96.1 %, whatever the distribution; here a skewed one whose median is log 2."""
    draws = np.random.default_rng(0).exponential(size=(4000, 9))
    inside = np.mean([low <= np.log(2) <= high for low, high in (timed(list(row)).interval_s for row in draws)])
    assert inside == pytest.approx(1 - 2 * (1 + 9) / 2**9, abs=0.012)  # three deviations of 4,000 draws are 0.009


def test_what_slows_both_leaves_the_ratio() -> None:
    drift = np.linspace(1.0, 3.0, 9)
    value, ends = ratio(timed(list(2e-3 * drift)), timed(list(1e-3 * drift)))
    assert value == pytest.approx(2.0)
    assert ends == pytest.approx((2.0, 2.0))


def test_a_machine_that_slows_down_leaves_the_ratio_of_neighbours() -> None:
    above, below = timed([1e-3] * 4 + [4e-3] * 5), timed([1e-3] * 5 + [4e-3] * 4)
    assert ratio(above, below) == (1.0, (1.0, 1.0))


@pytest.mark.parametrize(
    ("interval_s", "inside"),
    [((1.5e-3, 2e-3), True), ((1e-3, 1.5e-3), True), ((1.6e-3, 2e-3), False), ((1e-3, 1.4e-3), False)],
)
def test_an_estimate_holds_what_is_at_its_ends(interval_s: tuple[float, float], inside: bool) -> None:
    assert timed(NINE, estimate_s=(1.5e-3, *interval_s)).predicted is inside


def test_one_run_in_twenty() -> None:
    found = timed([float(i) for i in range(101)])
    assert found.slow_s == 95.0
    assert found.to_json()["quartiles_s"] == [25.0, 75.0]


def test_the_document_holds_what_was_found() -> None:
    found = timed(NINE, threads=2, extrapolated=True, incomparable="this is another machine").to_json()
    assert found.pop("slow_s") == pytest.approx(6.12e-3)
    assert found == {
        "bundle": "b", "stack": "board/stack", "ran": "model.onnx in a runtime", "machine": "a machine", "threads": 2,
        "runs": 9, "first_s": 0.2, "latency_s": 1.5e-3, "latency_interval_s": [1.2e-3, 1.8e-3],
        "quartiles_s": [1.3e-3, 1.7e-3], "estimate_s": 1e-3, "estimate_interval_s": [0.5e-3, 2e-3],
        "provenance": "fitted on rows", "extrapolated": True, "incomparable": "this is another machine",
    }  # fmt: skip


# ---- what is said


def test_a_time_inside_of_its_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    show_times([timed(NINE)])
    assert capsys.readouterr().out.splitlines() == [
        "on a machine: median of nine loads [second, eighth: 96 %]",
        "b: model.onnx in a runtime, threads: 1",
        "  1.50 ms [1.20 ms, 1.80 ms] a sample, 9 runs, one in twenty over 6.12 ms; 200 ms to load and answer first",
        "  estimate for board/stack: 1.00 ms [500 µs, 2.00 ms]: this time is inside",
        "board/stack: fitted on rows",
    ]


def test_times_that_are_outside_or_not_to_be_compared_beside_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    slow = timed([3 * s for s in NINE], bundle=Path("slow"))
    other = timed([s / 2 for s in NINE], bundle=Path("other"), incomparable="this is another machine", provenance="-",
                  extrapolated=True)  # fmt: skip
    show_times([timed(NINE), slow, other])
    said = capsys.readouterr().out
    assert "on a machine, in turns: " in said
    assert (
        "  3x [3, 3] the time of b\n  estimate for board/stack: 1.00 ms [500 µs, 2.00 ms]: this time is outside" in said
    )
    assert "  0.5x [0.5, 0.5] the time of b\n" in said
    assert said.count("not to be compared, this is another machine") == 1
    assert said.count("board/stack: fitted on rows") == 1, "of two that are alike"
    assert "board/stack: -\n" in said, "an estimate says where it is from, compared or not"
    assert said.count(f"  {EXTRAPOLATED}\n") == 1


def test_a_bundle_beside_itself_takes_as_long(capsys: pytest.CaptureFixture[str]) -> None:
    show_times([timed(NINE), timed(NINE)])
    said = capsys.readouterr().out
    assert said.startswith("on a machine, in turns: ")
    assert said.count("  1x [1, 1] the time of b\n") == 1


def test_all_runs_of_all_loads_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    show_times([replace(timed(NINE), loads_s=[[s, s, s] for s in NINE])])
    assert " a sample, 27 runs, " in capsys.readouterr().out


def test_what_is_not_to_be_compared_is_neither_inside_nor_outside(capsys: pytest.CaptureFixture[str]) -> None:
    for medians_s in (NINE, [9 * s for s in NINE]):
        show_times([timed(medians_s, incomparable="this is another machine")])
        said = capsys.readouterr().out
        assert "not to be compared, this is another machine" in said
        assert "this time is" not in said


# ---- what runs


class Recorder:
    """A backend that notes when it is loaded and asked."""

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


@pytest.fixture
def digits(float_and_integers: tuple[Bundle, Bundle]) -> tuple[Bundle, Bundle]:
    return float_and_integers


def changed(bundle: Bundle, **fields: Any) -> Bundle:
    """Another manifest beside the same files."""
    return Bundle(bundle.path, {**bundle.manifest, **fields})


@pytest.mark.slow
def test_each_is_loaded_nine_times_and_the_first_time_does_not_count(
    digits: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, told = Recorder(), []
    monkeypatch.setattr(stopwatch, "BACKENDS", {"onnxruntime": recorder})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    watch = Stopwatch(digits, threads=3)
    assert recorder.seen == ["load float 3", "load integers 3"], "the runtime is there before the clock runs"
    found = watch.times(seconds=0.0, progress=lambda step, share: told.append(share))
    loads = [seen for seen in recorder.seen if seen.startswith("load")]
    assert loads == ["load float 3", "load integers 3"] * 10
    starts = [recorder.seen[i + 1 : i + 3] for i, seen in enumerate(recorder.seen) if seen == "load integers 3"][1:]
    assert starts == [["integers", name] for name in ("float", "integers")] * 4 + [["integers", "float"]]
    for one in found:
        assert len(one.firsts_s) == len(one.loads_s) == 9
        assert one.threads == 3
        assert one.ran == "model.onnx in a test"
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.slow
def test_the_time_asked_for_is_each_bundles(digits: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    asked_s: list[float] = []

    def at_once(alternatives: Any, *, seconds: float, progress: Any) -> dict[Any, list[list[float]]]:
        asked_s.append(seconds)
        return {one: [[1.0], [2.0]] for one in alternatives}

    monkeypatch.setattr(stopwatch, "BACKENDS", {"onnxruntime": Recorder()})
    monkeypatch.setattr(stopwatch, "in_blocks_s", at_once)
    found = Stopwatch(digits).times(seconds=3.0)
    assert sum(asked_s) == pytest.approx(2 * 3.0)
    assert [one.loads_s for one in found] == [[[1.0, 2.0]] * 9] * 2


@pytest.mark.slow
def test_threads_are_the_stacks_but_no_more_than_there_are(
    digits: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(stopwatch, "BACKENDS", {"onnxruntime": recorder})
    of_a_pi = changed(digits[0], stack="raspberry_pi_4/onnxruntime-fp32")
    for processors, threads in ((8, 4), (2, 2)):
        recorder.seen.clear()
        monkeypatch.setattr(os, "cpu_count", lambda processors=processors: processors)
        Stopwatch([of_a_pi])
        assert recorder.seen == [f"load float {threads}"]
    with pytest.raises(UsageError, match="3 threads on a machine of 2 processors"):
        Stopwatch([of_a_pi], threads=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"complete": False, "remaining": "convert it"}, "it is of another runtime"),
        ({"checked": "not the file itself"}, "it is of another runtime"),
        ({"format": "executable"}, "starting the program is part of each run here"),
    ],
)
def test_an_estimate_of_something_else_is_not_compared(
    digits: tuple[Bundle, Bundle], fields: dict[str, Any], why: str
) -> None:
    bundle = digits[0]
    artifact = {**bundle.manifest["artifact"], **fields}
    (found,) = Stopwatch([changed(bundle, artifact=artifact)]).times(seconds=0.0)
    assert found.incomparable == why
    after = bundle.report["after"]
    assert found.estimate_s == (after["latency_s"], *after["latency_interval_s"])
    assert found.provenance == bundle.report["estimate"]["provenance"]


@pytest.mark.slow
def test_an_estimate_is_of_its_threads(digits: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    (found,) = Stopwatch([digits[0]], threads=2).times(seconds=0.0)
    assert found.incomparable == "it is for 1 thread"


@pytest.mark.slow
def test_fewer_threads_than_the_estimates_are_others(
    digits: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(stopwatch, "processor", lambda: "Raspberry Pi 4 Model B Rev 1.5, 4 cores")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(stopwatch, "BACKENDS", {"onnxruntime": Recorder()})
    (found,) = Stopwatch([changed(digits[0], stack="raspberry_pi_4/onnxruntime-fp32")], threads=2).times(seconds=0.0)
    assert found.incomparable == "it is for 4 threads"


@pytest.mark.slow
def test_that_an_estimate_is_extrapolated_is_read_from_the_report(
    digits: tuple[Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopwatch, "BACKENDS", {"onnxruntime": Recorder()})
    shutil.copytree(digits[0].path, tmp_path / "copy")
    report = json.loads((tmp_path / "copy/report.json").read_text("utf-8"))
    for extrapolated in (True, False):
        report["after"]["extrapolated"] = extrapolated
        (tmp_path / "copy/report.json").write_text(json.dumps(report))
        (found,) = Stopwatch([Bundle(tmp_path / "copy", digits[0].manifest)]).times(seconds=0.0)
        assert found.extrapolated is extrapolated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "calls_itself", "stack", "is_it"),
    [
        ("x86_64", "a processor", "desktop_cpu/onnxruntime-fp32", True),
        ("aarch64", "Raspberry Pi 4 Model B Rev 1.5, 4 cores", "desktop_cpu/onnxruntime-fp32", False),
        ("aarch64", "Raspberry Pi 4 Model B Rev 1.5, 4 cores", "raspberry_pi_4/onnxruntime-fp32", True),
        ("aarch64", "Raspberry Pi 4 Model B Rev 1.5, 4 cores", "raspberry_pi_5/onnxruntime-fp32", False),
        ("aarch64", "Raspberry Pi 3 Model B Plus Rev 1.3, 4 cores", "raspberry_pi_3/onnxruntime-fp32", True),
        ("x86_64", "a processor", "raspberry_pi_4/onnxruntime-fp32", False),
    ],
)
def test_a_board_says_its_name(
    digits: tuple[Bundle, Bundle],
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    calls_itself: str,
    stack: str,
    is_it: bool,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(stopwatch, "processor", lambda: calls_itself)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(stopwatch, "BACKENDS", {"onnxruntime": Recorder()})
    (found,) = Stopwatch([changed(digits[0], stack=stack)]).times(seconds=0.0)
    assert (found.incomparable == "") is is_it


# ---- bad input


@pytest.mark.parametrize("emulator", [(), ("qemu-aarch64-static", "-cpu", "cortex-a72")])
def test_a_program_that_is_emulated_here_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, emulator: tuple[str, ...]
) -> None:
    machine = MACHINES["aarch64-cortex-a72"]
    monkeypatch.setattr(AheadOfTime, "load", lambda self, artifact, **_: SimpleNamespace(machine=machine))
    monkeypatch.setattr("toolkit.backends.ahead_of_time.backend.command", lambda machine: emulator)
    backend = BACKENDS["ahead_of_time"]
    if not emulator:
        assert backend.runs_here(Path("build/program")) == "program, started anew for each sample"
        return
    with pytest.raises(UsageError, match=r"build/program is for aarch64.* emulated") as refusal:
        backend.runs_here(Path("build/program"))
    assert "toolkit verify build --emulate" in refusal.value.hint


def test_without_its_runtime_a_tflite_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingDependency("not here", hint="install it")

    monkeypatch.setattr(runtime, "_library", missing)
    with pytest.raises(MissingDependency):
        BACKENDS["litert"].runs_here(Path("model.tflite"))


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ("onnxruntime", "model in onnxruntime 1."),
        ("webgpu", "'s WebGPU provider"),
        ("litert", "model.tflite in LiteRT 2"),
        ("tensorrt", "model in onnxruntime 1."),
    ],
)
def test_what_runs_is_named(backend: str, says: str) -> None:
    assert says in BACKENDS[backend].runs_here(Path("model"))


@pytest.mark.slow
def test_a_stack_that_nobody_knows(digits: tuple[Bundle, Bundle]) -> None:
    with pytest.raises(InvalidInput, match=r"float is for mine/own, which this version does not know"):
        Stopwatch([changed(digits[0], stack="mine/own")])


@pytest.mark.slow
def test_a_program_takes_no_threads(digits: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = {**digits[0].manifest["artifact"], "format": "executable"}
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with pytest.raises(UsageError, match="runs on one thread"):
        Stopwatch([changed(digits[0], artifact=artifact)], threads=2)
    (found,) = Stopwatch([changed(digits[0], artifact=artifact)], threads=1).times(seconds=0.0)
    assert found.threads == 1


@pytest.mark.slow
def test_a_sample_that_the_model_does_not_take(digits: tuple[Bundle, Bundle]) -> None:
    signature = digits[0].manifest["signature"]
    inputs = [{**signature["inputs"][0], "name": "another"}]
    with pytest.raises(InvalidInput, match="the model takes another; got image"):
        Stopwatch([changed(digits[0], signature={**signature, "inputs": inputs})])


@pytest.mark.slow
@pytest.mark.parametrize("field", ["after", "estimate", "proofs"])
def test_a_report_that_lacks_something(digits: tuple[Bundle, Bundle], tmp_path: Path, field: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(digits[0].path, copy)
    report = json.loads((copy / "report.json").read_text())
    del report[field]
    (copy / "report.json").write_text(json.dumps(report))
    manifest = {**json.loads((copy / MANIFEST).read_text()), "sha256": hashes_of(copy)}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match=rf"report\.json is damaged: {field}"):
        Stopwatch([open_bundle(copy)])


@pytest.mark.slow
def test_the_command(digits: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(bundle.path) for bundle in digits]
    assert main(["bench", *paths, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["bundle"] for one in document["times"]] == paths
    assert [one["threads"] for one in document["times"]] == [1, 1]
    (beside,) = document["of_the_first"]
    assert beside["interval"][0] <= beside["ratio"] <= beside["interval"][1]
    assert main(["bench", paths[0]]) == 0
    said = capsys.readouterr().out
    assert f"{paths[0]}: model.onnx in onnxruntime" in said
    assert "estimate for desktop_cpu/onnxruntime-fp32: " in said
    assert "the time of" not in said, "there is nothing beside it"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "no bundle was named"),
        (["nowhere"], 5, "nowhere is not a bundle"),
        (["nowhere", "--stack", ""], 2, "--stack is for --write-rows"),
        (["nowhere", "--variant", "mine"], 2, "--variant is for --write-rows"),
        (["nowhere", "--input", "1x3"], 2, "--input is for --write-rows"),
    ],
)
def test_bad_input(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == code
    assert said in capsys.readouterr().err
