"""`toolkit estimate` at another setting, with a rate and a battery: what it prints, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

import toolkit
from targets.errors import UsageError
from toolkit.cli.main import main
from toolkit.planning import plan_model


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["estimate", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_plan_for_a_device_on_a_battery(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "-t", "jetson_nano", "--mode", "5W", "--per-second", "5", "--battery", "37Wh"]) == 0
    said = capsys.readouterr().out
    for part in ("5W", "scaled from MAXN to 5W", "rate", "battery", "37 Wh", "while it waits", "not verified"):
        assert part in said, part


def test_the_document_holds_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys, "-t", "raspberry_pi_4", "--mode", "1.5GHz", "--threads", "2", "--per-second", "5", "--battery", "10Wh"
    )
    assert found["schema"] == "toolkit.estimate/1"
    assert found["setting"] == {"mode": "1.5GHz", "threads": 2, "sustained": False}
    duty, power = found["duty"], found["power"]
    assert duty["battery_j"] == 36_000
    assert duty["utilisation"] == pytest.approx(5 * found["latency_s"])
    watts = power["idle_w"] + 5 * (found["energy_j"] - power["idle_w"] * found["latency_s"])
    assert duty["average_w"] == pytest.approx(watts)
    assert duty["hours"] == pytest.approx(10 / watts)
    assert "scaled from 1.8GHz to 1.5GHz" in found["provenance"]
    shares = {name: found["energy_by_work"][name] for name in ("arithmetic", "on_chip", "dram")}
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(op["energy_j"] for op in found["operators"]) < found["energy_j"]


def test_without_a_rate_there_is_no_duty(capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "-t", "raspberry_pi_4")["duty"] is None


@pytest.mark.slow
def test_a_battery_alone_is_drained_back_to_back(capsys: pytest.CaptureFixture[str]) -> None:
    duty = document(capsys, "-t", "raspberry_pi_4", "--battery", "10Wh")["duty"]
    assert duty["utilisation"] == 1
    assert duty["outcome"] == "fits"


@pytest.mark.slow
def test_more_than_the_device_can_do_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "-t", "raspberry_pi_4", "--per-second", "1e6")["duty"]["outcome"] == "does not fit"
    assert main(["estimate", "-t", "raspberry_pi_4", "--per-second", "1e6"]) == 0
    assert "more than the device can do" in capsys.readouterr().out


@pytest.mark.slow
def test_fewer_threads_and_lower_clocks_take_longer(capsys: pytest.CaptureFixture[str]) -> None:
    target = ("-t", "raspberry_pi_3")
    usual, one, hot = (
        document(capsys, *target, *more)["latency_s"] for more in ((), ("--threads", "1"), ("--sustained",))
    )
    assert usual < hot
    assert usual < one


def test_python_plans_in_one_call() -> None:
    plan = plan_model(target="jetson_nano", mode="5W", per_second=0.0)
    assert plan.duty is not None
    assert plan.duty.average_w == plan.stack.power.idle_w
    again = toolkit.estimate(target="jetson_nano", mode="5W")
    assert again.latency_s == plan.estimate.latency_s > toolkit.estimate(target="jetson_nano").latency_s


def test_devices_show_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "jetson_nano"]) == 0
    said = capsys.readouterr().out
    assert "--mode 5W" in said
    assert "640 MHz" in said
    assert main(["targets", "raspberry_pi_4"]) == 0
    said = capsys.readouterr().out
    assert "--threads 1-4" in said
    assert "--sustained" in said


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (["-t", "jetson_nano", "--mode", "7W"], "7W", "5W, MAXN"),
        (["-t", "coral_tpu", "--mode", "std"], "no power modes", "toolkit targets"),
        (["-t", "raspberry_pi_4", "--threads", "8"], "4 cores", "at most 4"),
        (["-t", "raspberry_pi_4", "--threads", "two"], "--threads", "--help"),
        (["-t", "jetson_nano", "--threads", "2"], "accelerator", "--threads"),
        (["-t", "jetson_nano", "--sustained"], "hot", "--sustained"),
        (["-t", "raspberry_pi_4", "--battery", "10000mAh"], "charge", "37Wh"),
        (["-t", "raspberry_pi_4", "--battery", "37"], "no unit", "37Wh"),
        (["-t", "raspberry_pi_4", "--battery", "5W"], "not an energy", "37Wh"),
        (["-t", "raspberry_pi_4", "--battery", ""], "not an energy", "37Wh"),
        (["-t", "raspberry_pi_4", "--per-second", "-1"], "-1 inferences", "from 0 up"),
        (["-t", "raspberry_pi_4", "--per-second", "nan"], "nan inferences", "from 0 up"),
        (["-t", "raspberry_pi_4", "--per-second", "5fps"], "--per-second", "--help"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(
    arguments: list[str], says: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *arguments]) == 2
    problem, next_step = capsys.readouterr().err.strip().splitlines()[:2]
    assert says in problem
    assert hint in next_step


def test_a_setting_is_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(UsageError, match="cores"):
        plan_model("nowhere:to_be_found", target="raspberry_pi_4", threads=99)
