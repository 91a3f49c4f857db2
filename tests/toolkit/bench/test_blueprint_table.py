"""The table of blueprints: its numbers are those of the targets' cost models; names are checked first."""

from __future__ import annotations

import json

import pytest

from targets.errors import UnknownName
from targets.target import load_target
from toolkit.bench.blueprints import MATRIX, Row, main, rows, subjects
from toolkit.driver import estimate_model
from toolkit.models import entries, entry


def test_every_blueprint_is_in_the_table_and_the_the_matrix_is_whole() -> None:
    assert {e.name for e in entries("blueprint")} <= set(subjects([]))
    assert {"sliding_conv/step", "inverted_residual/large"} <= set(subjects([]))
    assert {"desktop_cpu", "jetson_nano", "raspberry_pi_4", "coral_tpu"} == set(MATRIX)
    for e in entries("blueprint"):
        assert {"desktop_cpu", "jetson_nano", "raspberry_pi_4"} <= set(e.targets)


@pytest.mark.parametrize(
    ("names", "targets", "words"),
    [
        (["separable_visoin"], ["desktop_cpu"], "separable_visoin"),
        (["separable_vision/step"], ["desktop_cpu"], "separable_vision/step"),
        (["separable_vision/larg"], ["desktop_cpu"], "separable_vision/larg"),
        (["separable_vision"], ["jetson_nanno"], "jetson_nanno"),
    ],
)
def test_an_unknown_name_is_refused(names: list[str], targets: list[str], words: str) -> None:
    with pytest.raises(UnknownName, match=words) as caught:
        list(rows(names, targets))
    assert caught.value.hint.startswith("did you mean")


@pytest.fixture(scope="module")
def found() -> dict[str, Row]:
    return {row.target: row for row in rows(["separable_vision"], ["raspberry_pi_4", "desktop_cpu", "jetson_nano"])}


@pytest.mark.slow
def test_prices_are_those_of_the_estimate(found: dict[str, Row]) -> None:
    for target, row in found.items():
        wanted = estimate_model("separable_vision", target=target, as_is=True)
        assert row.float32 is not None
        assert row.float32["latency_s"] == pytest.approx(wanted.latency_s, rel=1e-9)
        assert row.float32["peak_memory_bytes"] == wanted.peak_memory_bytes
        assert row.flop == 2 * wanted.macs
        low, high = row.float32["latency_interval_s"]
        assert low < row.float32["latency_s"] < high
        assert row.parameters == sum(p.numel() for p in entry("separable_vision").build().parameters())


@pytest.mark.slow
def test_a_row_says_what_ships_and_only_this_machine_is_measured(found: dict[str, Row]) -> None:
    pi, here, nano = found["raspberry_pi_4"], found["desktop_cpu"], found["jetson_nano"]
    assert (pi.precision, pi.ships, pi.note) == ("int8", "int8", "")
    assert pi.speed_up > 1
    assert nano.precision == "float16"
    assert here.ships == "float32"
    assert "slower" in here.note
    assert here.measured_s is not None
    assert here.measured_s["float32"] > 0
    assert (pi.measured_s, nano.measured_s) == (None, None)
    assert {row.fits for row in found.values()} == {"fits"}


@pytest.mark.slow
def test_the_document_and_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["separable_vision", "--target", "raspberry_pi_4"]
    assert main([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "toolkit.bench.blueprints/1"
    assert [row["stack"] for row in document["rows"]] == [load_target("raspberry_pi_4").stack(None).id]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "separable_vision       raspberry_pi_4" in printed
    assert "published to be 2 to 4 times as fast" in printed
