"""`toolkit compare A B`: the same figures of both, where recipes part, and what both answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit
from targets.errors import InvalidInput
from toolkit.bundle.bundle import Bundle, open_bundle
from toolkit.bundle.hashes import hashes_of
from toolkit.bundle.layout import MANIFEST
from toolkit.cli.main import main
from toolkit.comparing import compare_bundles
from toolkit.comparing.documents import Document, Quantity, parts, steps, versions


def proof(name: str, db: float | None = None, decision: str = "kept", **settings: Any) -> dict[str, Any]:
    return {"pass": name, "settings": settings, "decision": decision, "reason": "", "drift": [{"sqnr_db": db}]}


def document(proofs: list[dict[str, Any]], operators: list[tuple[str, float]] = (), **libraries: str) -> Document:
    interval = [1.0, 2.0]
    return Document.model_validate(
        {
            "model": {"name": "net", "digest": "0"},
            "stack": {"id": "a/b", "runtime": "r", "calibrated": True, "provenance": "p"},
            "artifact": {"file": "model.onnx", "format": "onnx", "complete": True},
            "verdict": {"outcome": "fits"},
            "after": {
                "size_bytes": 1, "latency_s": 1.5, "latency_interval_s": interval, "memory_bytes": 1,
                "memory_interval_bytes": interval, "energy_j": 1.5, "energy_interval_j": interval,
            },
            "accuracy": {"metric": None, "identical": True, "worst_sqnr_db": None, "data": "d", "samples": 1},
            "estimate": {"operators": [{"class": c, "latency_s": s} for c, s in operators], "fixed_s": 0.5},
            "proofs": proofs,
            "versions": libraries,
        }
    )  # fmt: skip


# ---- recipes


def test_passes_that_are_and_did_the_same_are_left_out() -> None:
    ours = document([proof("Fold"), proof("Fuse", 90.0), proof("Quantize", 30.0, bits=8)])
    theirs = document([proof("Fold"), proof("Fuse", 80.0), proof("Prune"), proof("Quantize", 30.0, bits=4)])
    found = [(step.name, *(p.worst_sqnr_db if p else "none" for p in step.proofs)) for step in steps(ours, theirs)]
    assert found == [("Fuse", 90.0, 80.0), ("Prune", "none", None), ("Quantize", 30.0, 30.0)]
    assert steps(ours, ours) == []


def test_of_two_recipes_that_share_nothing_every_pass_is_told() -> None:
    ours, theirs = document([proof("A"), proof("B")]), document([proof("C")])
    assert [(s.name, s.proofs[0] is None, s.proofs[1] is None) for s in steps(ours, theirs)] == [
        ("A", False, True), ("B", False, True), ("C", True, False)
    ]  # fmt: skip


def test_a_pass_that_was_reverted_in_one_is_told() -> None:
    (step,) = steps(document([proof("Fuse")]), document([proof("Fuse", decision="reverted")]))
    assert [p.decision for p in step.proofs if p] == ["kept", "reverted"]


# ---- figures


def test_time_is_summed_by_kind_and_the_largest_difference_comes_first() -> None:
    ours = document([], [("conv", 1.0), ("conv", 2.0), ("pool", 0.25)])
    theirs = document([], [("conv", 1.0), ("matmul", 4.0)])
    found = [(part.op_class, part.counts, part.latency_s) for part in parts(ours, theirs)]
    assert found == [
        ("matmul", (0, 1), (0.0, 4.0)),
        ("conv", (2, 1), (3.0, 1.0)),
        ("pool", (1, 0), (0.25, 0.0)),
        ("each inference", (1, 1), (0.5, 0.5)),
    ]


def test_a_ratio_of_estimates_is_as_unsure_as_both() -> None:
    found = Quantity(name="latency_s", values=(2.0, 1.0), intervals=((1.0, 4.0), (0.5, 2.0)))
    assert found.ratio == 0.5
    assert found.ratio_interval == (0.125, 2.0)
    nothing = Quantity(name="energy_j", values=(0.0, 1.0), intervals=((0.0, 0.0), (0.5, 2.0)))
    assert nothing.ratio is None
    assert nothing.ratio_interval is None


def test_libraries_that_differ() -> None:
    ours, theirs = document([], torch="2.12", onnx="1.23"), document([], torch="2.13", onnx="1.23", flatbuffers="25")
    assert versions(ours, theirs) == {"flatbuffers": (None, "25"), "torch": ("2.12", "2.13")}


# ---- bundles


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("pair")
    stacks = {"float": "onnxruntime-fp32", "integers": "onnxruntime-int8"}
    first, second = (toolkit.compile(target="desktop_cpu", stack=s, output=folder / n) for n, s in stacks.items())
    return first, second


@pytest.mark.slow
def test_a_bundle_is_as_good_as_itself(pair: tuple[Bundle, Bundle]) -> None:
    found = compare_bundles(pair[0], pair[0])
    assert [quantity.ratio for quantity in found.quantities] == [1.0] * 4
    assert found.steps == []
    assert found.versions == {}
    assert found.answers is not None
    assert [drift.sqnr_db for drift in found.answers.drift] == [np.inf]
    assert found.answers.same_class == found.answers.samples == len(pair[0].golden)


@pytest.mark.slow
def test_figures_are_those_of_files_and_reports(pair: tuple[Bundle, Bundle]) -> None:
    found = compare_bundles(*pair)
    sizes = [(bundle.path / "model.onnx").stat().st_size for bundle in pair]
    quantities = {quantity.name: quantity for quantity in found.quantities}
    assert quantities["size_bytes"].ratio == pytest.approx(sizes[1] / sizes[0])
    for side, bundle in enumerate(pair):
        after = bundle.report["after"]
        assert sum(part.latency_s[side] for part in found.parts) == pytest.approx(after["latency_s"])
        for name in ("latency_s", "memory_bytes", "energy_j"):
            assert quantities[name].values[side] == after[name]
    assert {step.name for step in found.steps if step.proofs[0] is None} >= {"QuantizeInt8"}


@pytest.mark.slow
def test_the_other_way_round_is_the_reverse(pair: tuple[Bundle, Bundle]) -> None:
    there, back = compare_bundles(*pair), compare_bundles(*reversed(pair))
    for one, other in zip(there.quantities, back.quantities, strict=True):
        assert one.ratio is not None
        assert other.ratio == pytest.approx(1 / one.ratio)
        if one.ratio_interval:
            assert other.ratio_interval == pytest.approx(tuple(1 / end for end in reversed(one.ratio_interval)))
    assert {(s.name, *s.proofs) for s in map(_frozen, there.steps)} == {
        (s.name, *reversed(s.proofs)) for s in map(_frozen, back.steps)
    }


def _frozen(step: Any) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(name=step.name, proofs=tuple(p and p.model_dump_json() for p in step.proofs))


@pytest.mark.slow
def test_recorded_answers_are_taken_where_both_have_them(
    pair: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden samples come from the same data: neither has to run, wherever it was compiled for."""
    monkeypatch.setattr(Bundle, "__call__", lambda self, inputs: pytest.fail("it was run"))
    found = compare_bundles(*pair).answers
    assert found is not None
    (want, have) = (np.stack([g.outputs["output"] for g in bundle.golden]).astype(float) for bundle in pair)
    noise = 10 * np.log10(np.square(want).sum() / np.square(want - have).sum())
    assert found.drift[0].sqnr_db == pytest.approx(noise)
    assert found.drift[0].max_abs_error == pytest.approx(np.abs(want - have).max())


@pytest.mark.slow
def test_samples_of_the_user_with_labels(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    from toolkit.models import digits

    _, (images, labels) = digits.split()
    np.savez(tmp_path / "mine.npz", image=images[:40], labels=labels[:40])
    found = compare_bundles(*pair, data=str(tmp_path / "mine.npz")).answers
    assert found is not None
    assert found.samples == 40
    classes = [[int(b(image[None])["output"].argmax()) for image in images[:40]] for b in pair]
    assert found.same_class == sum(a == b for a, b in zip(*classes, strict=True))
    assert found.metric is not None
    assert found.metric.before == pytest.approx(np.mean(np.array(classes[0]) == labels[:40]))
    assert found.metric.after == pytest.approx(np.mean(np.array(classes[1]) == labels[:40]))
    low, high = found.metric.drop_interval
    assert low <= found.metric.drop <= high


@pytest.mark.slow
def test_another_network_is_compared_in_figures_alone(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    from torch import nn

    other = toolkit.compile(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval(),
        target="desktop_cpu",
        inputs=["x=1x12"],
        output=tmp_path / "other",
    )
    found = compare_bundles(pair[0], other)
    assert found.answers is None
    assert "same tensors" in found.apart
    assert len(found.quantities) == 4
    np.save(tmp_path / "mine.npy", np.zeros((2, 1, 8, 8), np.float32))
    with pytest.raises(InvalidInput, match="the model takes x"):
        compare_bundles(pair[0], other, data=str(tmp_path / "mine.npy"))


@pytest.mark.slow
@pytest.mark.parametrize("field", ["after", "accuracy", "proofs", "estimate"])
def test_a_report_that_lacks_something(pair: tuple[Bundle, Bundle], tmp_path: Path, field: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pair[0].path, copy)
    report = json.loads((copy / "report.json").read_text())
    del report[field]
    (copy / "report.json").write_text(json.dumps(report))
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["sha256"] = hashes_of(copy)
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match=r"report\.json is damaged"):
        compare_bundles(pair[1], open_bundle(copy))


@pytest.mark.slow
def test_the_command(pair: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(str, (bundle.path for bundle in pair))
    assert main(["compare", first, second, "--json", "--measure"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [bundle["path"] for bundle in found["bundles"]] == [first, second]
    low, high = found["times"]["interval"]
    assert low <= found["times"]["ratio"] <= high
    assert main(["compare", first, second]) == 0
    said = capsys.readouterr().out
    for wanted in ("latency of A: ", "QuantizeInt8", "predicted time of", "the same class in 4 of 4", "conv3x3 x 3"):
        assert wanted in said
    assert " a sample, " not in said, "nothing is timed unless it is asked for"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a", "b", "--threads", "2"], 2, "--threads is for --measure"),
        (["a", "b", "--preprocess", "unit"], 2, "--preprocess is for --data"),
        (["a"], 2, "missing"),
        (["a", "b"], 5, "a is not a bundle"),
    ],
)
def test_bad_input(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments]) == code
    assert said in capsys.readouterr().err.lower()
