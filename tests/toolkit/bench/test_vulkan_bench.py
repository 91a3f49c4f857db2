"""The table of Vulkan: answers are held against float64, and software drivers have no times."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from kernels import KernelUnavailable
from kernels import vulkan as vk
from toolkit.bench import vulkan as bench
from toolkit.timing import in_turns_s


@pytest.fixture(scope="module")
def device() -> vk.Device:
    return vk.open_device()


@pytest.mark.slow
def test_software_drivers_are_checked_and_not_timed(device: vk.Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["rows"]) == 4
    assert all(row["error"] <= row["allowed"] for row in found["rows"])
    if found["is_software"]:
        assert not any(row["times_s"] for row in found["rows"])


@pytest.mark.slow
def test_a_wrong_answer_is_not_timed(device: vk.Device) -> None:
    case = next(bench.cases(small=True))
    wrong = replace(case, on_vulkan=lambda d, a, b: vk.matmul(d, a, d.put(case.inputs[1] * 1.001)))
    with pytest.raises(ArithmeticError, match="allowed"):
        bench.measure(device, wrong)


def test_without_a_driver_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> vk.Device:
        raise KernelUnavailable("no Vulkan driver: apt-get install mesa-vulkan-drivers")

    monkeypatch.setattr(bench, "open_device", none)
    assert bench.main([]) == 3
    assert "mesa-vulkan-drivers" in capsys.readouterr().err


def test_a_row_shows_ratios_with_their_spread() -> None:
    times = {"Vulkan, eight in flight": (1e-3, 2e-3, 4e-3), "torch, CPU": (8e-3, 10e-3, 12e-3)}
    lines = bench._shown(bench.Row("matmul", 0.0, 1.0, times))
    assert lines[0] == "matmul: error 0.0e+00 (allowed 1.0e+00)"
    assert [part.strip() for part in lines[1].split("  ")[-2:]] == [
        "2.00 ms [1.00 ms, 4.00 ms]",
        "5.00x torch, CPU [2.00, 12.00]",
    ]
    assert lines[2].endswith("10.0 ms [8.00 ms, 12.0 ms]")


def test_the_goal_is_met_where_quartiles_say_so() -> None:
    slow = {"Vulkan, eight in flight": (1e-3, 1e-3, 2e-3), "torch, CPU": (9e-3, 10e-3, 11e-3)}
    assert not bench.Row("median alone", 0.0, 1.0, slow).is_met
    assert bench.Row("met", 0.0, 1.0, {**slow, "torch, CPU": (10e-3, 10e-3, 11e-3)}).is_met


@pytest.mark.slow
def test_what_a_gpu_would_be_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The road of a GPU, walked on whatever device is here; its times are looked at by nobody."""
    first = next(bench.cases(small=True))
    monkeypatch.setattr(vk.Device, "is_software", False)
    monkeypatch.setattr(bench, "cases", lambda small: iter([first]))
    monkeypatch.setattr(bench, "in_turns_s", partial(in_turns_s, seconds=0.0, fewest=2))
    before = torch.get_num_threads()
    assert bench.main(["--threads", "2"]) == 0
    assert torch.get_num_threads() == before
    out = capsys.readouterr().out
    assert "2 threads" in out
    for way in ("kernel alone", "eight in flight", "waited for", "carried there and back"):
        assert f"  Vulkan, {way}" in out
    assert "goal 5x torch, CPU" in out
    assert "not measured" not in out


def test_no_threads_are_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--threads", "0"])
    assert "at least one" in capsys.readouterr().err
