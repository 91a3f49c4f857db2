"""The documents that --json prints: one a command, with exactly these keys, since other programs read them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.cli.main import main

Document = dict[str, Any]


def keys(names: str, **nested: Any) -> dict[str, Any]:
    """An object with exactly these keys; a nested one is an object, a list of them, or ANY."""
    return {**dict.fromkeys(names.split()), **nested}


ANY = "any keys"  # they are names of the user's or of the profile's

CHECK = keys("quantity value interval limit outcome")
VERDICT = keys("outcome", checks=[CHECK])
DRIFT = keys("output identical sqnr_db max_abs_error")
METRIC = keys("name before after drop_interval samples")
TENSOR = keys("name dtype shape")
OPERATOR = keys(
    "name op_type class dtype place macs latency_s energy_j bound extrapolated fused module source reason", terms=ANY
)
ESTIMATE = keys(
    "schema model stack runtime fixed_s latency_s latency_interval_s weight_bytes activation_bytes peak_memory_bytes "
    "memory_parts_bytes memory_interval_bytes energy_j energy_interval_j calibrated extrapolated provenance "
    "memory_provenance energy_provenance assumed_dtype instructions instructions_interval instructions_provenance",
    operators=[OPERATOR],
)
PLAN = ESTIMATE | keys(
    "notes",
    setting=keys("mode threads sustained"),
    power=keys("active_w idle_w"),
    energy_by_work=keys("arithmetic on_chip dram provenance"),
    duty=keys(
        "per_second most_per_second most_per_second_interval utilisation utilisation_interval outcome average_w "
        "average_interval_w idle_w battery_j hours hours_interval"
    ),
)
REWRITTEN = keys(
    "kind sqnr_db identical max_abs_error data samples", exchanges=[keys("name replaces says kind count caution")]
)
FALLBACK = keys(
    "name op_type module source reason own_s copies_s dragged_s total_s followers before_s after_s after_interval_s "
    "gain_s failed",
    remedy=REWRITTEN,
)
WAY = keys(
    "change description target stack precision inputs outcome latency_s latency_interval_s peak_memory_bytes "
    "memory_interval_bytes energy_j energy_interval_j size_bytes size_interval_bytes calibrated extrapolated "
    "provenance command training graph channels_removed_share",
    rewritten=REWRITTEN,
    gain=keys("latency_s peak_memory_bytes energy_j size_bytes"),
    checks=[CHECK],
    support=keys(
        "outcome operators leaving_s unverified unknown unread",
        leaving=[keys("name op_type class latency_s module source reason rewrite")],
    ),
)
FIGURES = keys(
    "size_bytes latency_s latency_interval_s memory_bytes memory_interval_bytes energy_j energy_interval_j extrapolated"
)
PROOF = keys(
    "pass kind decision reason data samples predicted_latency_s changed size_bytes nodes measured_slower notes",
    settings=ANY,
    drift=[DRIFT],
    metric=METRIC,
)
REPORT = keys(
    "schema",
    model=ANY,
    target=keys("name title"),
    stack=keys("id runtime calibrated provenance"),
    artifact=ANY,
    verdict=VERDICT,
    before=FIGURES,
    after=FIGURES,
    accuracy=keys("identical worst_sqnr_db data samples", metric=METRIC),
    recipe=keys("name", passes=ANY),
    proofs=[PROOF],
    layers=[keys("layer operator source tensor_sqnr_db alone_sqnr_db share_of_noise", causes=ANY)],
    estimate=ESTIMATE,
    versions=ANY,
)
STACK = keys(
    "name id runtime runtime_version precision threads batch power_mode calibrated own_calibration rows provenance",
    measured_as=ANY,
)
TARGET = keys(
    "name title device_type memory_bytes usable_memory_bytes dram_bytes_s power_budget_w latency_target_s "
    "default_stack",
    peak_flop_s=ANY,
    parameters=ANY,
    settings=ANY,
    source=ANY,
    stacks=[STACK],
)
DOCUMENTS: Mapping[str, tuple[str, Document]] = {
    "estimate": ("estimate digits -t coral_tpu --per-second 5 --battery 37Wh", PLAN),
    "check": (
        "check digits -t coral_tpu",
        keys(
            "schema model target stack runtime outcome",
            limits=keys("latency_s memory_bytes energy_j size_bytes"),
            way=WAY,
            change=WAY,
            tried=[WAY],
            ranked_by=None,
            ranked=None,
            fallbacks=[FALLBACK],
            notes=None,
        ),
    ),
    "inspect": (
        "inspect wide.onnx",
        keys(
            "schema name opset notes parameters macs weight_bytes",
            signature=keys("", inputs=[TENSOR], outputs=[TENSOR]),
            operators=[keys("op_type nodes macs share")],
            unread=ANY,
            refusals={"edgetpu": [keys("op_type name module source reason rewrite")]},
            unverified=keys("edgetpu"),
        ),
    ),
    "compile": ("compile digits -t coral_tpu -o bundle", keys("schema bundle", report=REPORT)),
    "recipe": (
        "compile digits -t coral_tpu --dry-run",
        keys("schema stack name", passes=ANY),
    ),
    "explain": (
        "explain bundle --samples 2",
        keys(
            "schema bundle stack data samples sqnr_db layers_sqnr_db culprit first_jump",
            passes=[PROOF],
            layers=[
                keys(
                    "layer operator tensor module source alone_sqnr_db share_of_noise own_tensor_sqnr_db "
                    "tensor_sqnr_db inherited_sqnr_db without_sqnr_db stored_range seen_range clipped_share "
                    "vanished_share without_latency_s",
                    causes=ANY,
                )
            ],
        ),
    ),
    "verify": ("verify bundle", keys("schema passed samples sqnr_db reference_sqnr_db floor_db signed_with")),
    "run": ("run bundle images.npy", keys("schema", outputs=ANY)),
    "export": ("export digits -o digits.onnx", keys("schema file format size_bytes data", drift=[DRIFT])),
    "targets": ("targets", keys("schema", targets=[TARGET])),
    "passes": (
        "passes",
        keys("schema recipes", passes=[keys("name kind level needs gives breaks settings summary")]),
    ),
    "models": ("models", keys("schema", models=[keys("name family summary use_case targets", refused=ANY)])),
    "model": (
        "models sliding_conv",
        keys(
            "schema name family summary use_case targets trained parameters macs weight_bytes description",
            refused=ANY,
            inputs=[keys("name dtype shape")],
            outputs=[keys("name dtype shape")],
            config=[keys("name allowed default meaning value")],
        ),
    ),
    "doctor": ("doctor", keys("schema ok", findings=[keys("name ok required found hint")])),
    "cache": (
        "cache",
        keys(
            "schema folder entries bytes max_bytes oldest_use",
            dropped=keys("entries bytes"),
            search=keys("entries bytes", dropped=keys("entries bytes")),
        ),
    ),
    "init": ("init", keys("schema file text")),
    "bench": (
        "bench --write-rows rows.csv wide.onnx",
        keys(
            "schema file stack device device_variant runtime precision threads kept",
            measured=[keys("model family input_shape latency_s path")],
            skipped=[keys("model reason")],
        ),
    ),
    "calibrate": (
        "calibrate desktop_cpu/onnxruntime-fp32 more.csv",
        keys(
            "schema stack runtime rows networks started_from provenance file",
            measured_as=ANY,
            set_aside=[keys("line reason")],
            errors={name: keys("mape median within_10 within_20") for name in ("unchanged", "network", "family")},
            coverage=keys("network family"),
            predictions=[keys("line model family measured_s without_network_s without_family_s")],
        ),
    ),
    "forget": ("calibrate desktop_cpu/onnxruntime-fp32 --forget", keys("schema stack forgotten")),
    "error": ("estimate digits -t coral_tpv", keys("schema problem hint exit_code")),
}
CODES = {"error": 2}


def differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Where the keys of `found` are not those expected; a list must hold something, in one element at least."""
    if expected is ANY:
        if not isinstance(found, (dict, list)):
            yield f"{path} is {found!r}"
    elif expected is None:
        return
    elif isinstance(expected, list):
        if not isinstance(found, list):
            yield f"{path} is no list"
            return
        for position, item in enumerate(found):
            yield from differences(expected[0], item, f"{path}[{position}]")
    elif found is not None:
        if set(found) != set(expected):
            yield f"{path}: {sorted(set(found) ^ set(expected))}"
            return
        for name, inner in expected.items():
            yield from differences(inner, found[name], f"{path}.{name}")


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command prints on stdout, in one folder, in the order of a user's day."""
    import onnx.parser

    folder = tmp_path_factory.mktemp("documents")
    said = {}
    with chdir(folder):
        np.save("images.npy", np.full((2, 1, 8, 8), 0.5, np.float32))
        text = '<ir_version: 10, opset_import: ["" : 18]> g (float[1,4] x) => (float[1,4] y) { y = Elu(x) }'
        onnx.save(onnx.parser.parse_model(text), "wide.onnx")
        rows = ["path,latency_ms,precision"]
        for width in range(1, 8):
            onnx.save(onnx.parser.parse_model(text.replace("4", str(100 * width))), f"net{width}.onnx")
            rows.append(f"net{width}.onnx,{width / 1e3},{'int8' if width == 1 else 'fp32'}")
        Path("more.csv").write_text("\n".join(rows))
        for name, (command, _) in DOCUMENTS.items():
            out = io.StringIO()
            with redirect_stdout(out):
                assert main([*command.split(), "--json"]) == CODES.get(name, 0), name
            said[name] = out.getvalue()
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_command_prints_one_document_with_these_keys(name: str, printed: dict[str, str]) -> None:
    document = json.loads(printed[name])
    assert document["schema"] == f"toolkit.{name}/1"
    assert list(differences(DOCUMENTS[name][1], document, name)) == []


@pytest.mark.slow
def test_every_part_of_the_documents_was_seen(printed: dict[str, str]) -> None:
    """What may be empty is not, in these examples: otherwise its keys would be pinned in name only."""
    check, report = json.loads(printed["check"]), json.loads(printed["compile"])["report"]
    assert check["tried"][0]["support"]["leaving"]
    assert check["way"]["checks"]
    assert check["change"]
    assert report["proofs"][-1]["metric"]
    assert report["proofs"][-1]["drift"]
    assert report["accuracy"]["metric"]
    assert report["estimate"]["schema"] == "toolkit.estimate/1"
    assert json.loads(printed["inspect"])["refusals"]["edgetpu"]
    assert json.loads(printed["export"])["drift"]
    assert json.loads(printed["bench"])["measured"]
    assert json.loads(printed["calibrate"])["set_aside"]
    assert json.loads(printed["calibrate"])["predictions"]


@pytest.mark.slow
def test_numbers_are_numbers_and_intervals_hold_them(printed: dict[str, str]) -> None:
    estimate = json.loads(printed["estimate"])
    for value, spread in (
        ("latency_s", "latency_interval_s"),
        ("peak_memory_bytes", "memory_interval_bytes"),
        ("energy_j", "energy_interval_j"),
    ):
        low, high = estimate[spread]
        assert low <= estimate[value] <= high
    assert sum(op["latency_s"] for op in estimate["operators"]) + estimate["fixed_s"] == pytest.approx(
        estimate["latency_s"]
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["compile", "-t", "jetson_nan"], 2),
        (["compil"], 2),
        (["check", "-t", "jetson_nano", "--max-latency", "20"], 2),
        (["check", "-t", "jetson_nano", "--tarjet"], 2),
        (["verify", "gone"], 5),
        (["inspect", "gone.onnx"], 5),
    ],
)
def test_a_failure_is_a_document_too(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--json"]) == code
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document == {
        "schema": "toolkit.error/1",
        "problem": document["problem"],
        "hint": document["hint"],
        "exit_code": code,
    }
    assert err == f"error: {document['problem']}\n  next: {document['hint']}\n"


@pytest.mark.parametrize(
    ("error", "code"), [(ZeroDivisionError("boom"), 70), (KeyboardInterrupt(), 130), (ImportError("x", name="ray"), 3)]
)
def test_bugs_interrupts_and_missing_parts_are_documents_too(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolkit import planning

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(planning, "plan_model", fail)
    for verbosity in ([], ["-vv"]):
        assert main(["estimate", "-t", "jetson_nano", "--json", *verbosity]) == code
        assert json.loads(capsys.readouterr().out)["exit_code"] == code


@pytest.mark.slow
def test_nothing_names_this_machine(printed: dict[str, str]) -> None:
    for name in set(DOCUMENTS) - {"doctor", "cache"}:
        assert os.path.expanduser("~") not in printed[name], name
        assert str(Path(__file__).parents[2]) not in printed[name], name
