"""The table of Vulkan: answers are held against float64, and software drivers have no times."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kernels import KernelUnavailable
from kernels import vulkan as vk
from toolkit.bench import vulkan as bench


@pytest.fixture(scope="module")
def device() -> vk.Device:
    return vk.open_device()


def test_software_drivers_are_checked_and_not_timed(device: vk.Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["rows"]) == 4
    assert all(row["error"] <= row["allowed"] for row in found["rows"])
    if found["is_software"]:
        assert not any(row["times_s"] for row in found["rows"])


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
    row = bench.Row("matmul", 0.0, 1.0, {"Vulkan": (1e-3, 2e-3, 4e-3), "torch, CPU": (8e-3, 10e-3, 12e-3)})
    assert bench._shown(row) == "2.00 ms [1.00 ms, 4.00 ms]  5.00x torch, CPU [2.00, 12.00, goal 5]"
