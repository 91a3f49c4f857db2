"""`toolkit compare A B`: the same figures of both, where recipes part, and what both answer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import toolkit
from passes.dataset import Dataset
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput, MissingDependency, UsageError
from tests.toolkit.compared_documents import document, proof, report
from toolkit import comparing
from toolkit.bundle.bundle import Bundle, open_bundle
from toolkit.bundle.golden import Golden, write_golden
from toolkit.bundle.hashes import hashes_of
from toolkit.bundle.layout import MANIFEST
from toolkit.cli.main import main
from toolkit.comparing import compare_bundles
from toolkit.comparing.answers import compared, differ, golden_answers
from toolkit.comparing.documents import FIXED, Quantity, parts, steps, versions
from toolkit.data import load_data
from toolkit.report.reading import read_document
from toolkit.stopwatch import Stopwatch, Timed

# ---- recipes


def test_passes_that_are_and_did_the_same_are_left_out() -> None:
    ours = document([proof("Fold"), proof("Fuse", 90.0), proof("Quantize", 30.0, bits=8)])
    theirs = document([proof("Fold"), proof("Fuse", 80.0), proof("Prune"), proof("Quantize", 30.0, bits=4)])
    found = [(step.name, *(p.worst_sqnr_db if p else "none" for p in step.proofs)) for step in steps(ours, theirs)]
    assert found == [("Fuse", 90.0, 80.0), ("Prune", "none", inf), ("Quantize", 30.0, 30.0)]
    assert steps(ours, ours) == []


def test_of_two_recipes_that_share_nothing_every_pass_is_told() -> None:
    ours, theirs = document([proof("A"), proof("B")]), document([proof("C")])
    assert [(s.name, s.proofs[0] is None, s.proofs[1] is None) for s in steps(ours, theirs)] == [
        ("A", False, True), ("B", False, True), ("C", True, False)
    ]  # fmt: skip


def test_a_pass_that_was_reverted_in_one_is_told() -> None:
    (step,) = steps(document([proof("Fuse")]), document([proof("Fuse", decision="reverted")]))
    assert [p.decision for p in step.proofs if p] == ["kept", "reverted"]


def test_a_pass_that_was_narrowed_for_another_reason_is_told() -> None:
    ours, theirs = ({**proof("Fuse", decision="narrowed"), "reason": why} for why in ("one layer", "two layers"))
    (step,) = steps(document([ours]), document([theirs]))
    assert [p.reason for p in step.proofs if p] == ["one layer", "two layers"]


# ---- figures


def test_time_is_summed_by_kind_and_the_largest_difference_comes_first() -> None:
    ours = document([], [("conv", 1.0), ("conv", 2.0), ("pool", 0.25)])
    theirs = document([], [("conv", 1.0), ("matmul", 4.0)])
    found = [(part.op_class, part.counts, part.latency_s) for part in parts(ours, theirs)]
    assert found == [
        ("matmul", (0, 1), (0.0, 4.0)),
        ("conv", (2, 1), (3.0, 1.0)),
        ("pool", (1, 0), (0.25, 0.0)),
        (FIXED, (0, 0), (0.5, 0.5)),
    ]


def test_a_ratio_of_estimates_is_as_unsure_as_both() -> None:
    found = Quantity(name="latency_s", values=(2.0, 1.0), intervals=((1.0, 4.0), (0.5, 2.0)))
    assert found.ratio == 0.5
    assert found.ratio_interval == (0.125, 2.0)
    one = Quantity(name="latency_s", values=(2.0, 2.0), intervals=((1.0, 4.0), (1.0, 4.0)))
    assert (one.ratio, one.ratio_interval) == (1.0, None), "one prediction has one error"
    moved = Quantity(name="latency_s", values=(2.0, 3.0), intervals=((1.0, 4.0), (1.0, 4.0)))
    assert moved.ratio_interval == (0.25, 4.0)
    surer = Quantity(name="latency_s", values=(2.0, 2.0), intervals=((1.0, 4.0), (1.6, 2.5)))
    assert surer.ratio_interval == (0.4, 2.5)
    nothing = Quantity(name="energy_j", values=(0.0, 1.0), intervals=((0.0, 0.0), (0.5, 2.0)))
    assert nothing.ratio is None
    assert nothing.ratio_interval is None


def test_libraries_that_differ() -> None:
    ours = document(versions={"torch": "2.12", "onnx": "1.23"})
    theirs = document(versions={"torch": "2.13", "onnx": "1.23", "flatbuffers": "25"})
    assert versions(ours, theirs) == {"flatbuffers": (None, "25"), "torch": ("2.12", "2.13")}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"after": {**report()["after"], "energy_interval_j": [1.0, nan]}}, r"after\.energy_interval_j\.1"),
        ({"estimate": {**report()["estimate"], "fixed_s": inf}}, r"estimate\.fixed_s"),
        ({"accuracy": {**report()["accuracy"], "metric": {}}}, "'drop_interval'"),
        ({"proofs": [{}]}, "'metric'"),
        ({"proofs": [None]}, "object"),
    ],
)
def test_what_is_damaged_in_a_report_is_named(fields: dict[str, Any], named: str) -> None:
    bundle: Any = SimpleNamespace(path=Path("b"), report=report(**fields))
    with pytest.raises(InvalidInput, match=rf"b/report\.json is damaged: .*{named}"):
        read_document(bundle)


# ---- answers


def test_the_same_class_is_counted_where_there_are_classes() -> None:
    one, other = np.array([[1.0, 3.0, 2.0]]), np.array([[2.0, 3.0, 1.0]])
    turned, broken = np.array([[3.0, 1.0, 2.0]]), np.array([[1.0, np.nan, 0.0]])

    def same(want: list[Any], have: list[Any]) -> int | None:
        return compared("d", [{"y": a} for a in want], [{"y": a} for a in have], None).same_class

    assert same([one, one], [other, turned]) == 1
    assert same([broken, one], [other, other]) == 1, "what is not a number is of no class"
    assert same([broken], [broken]) == 0
    assert same([one[0]], [other[0]]) is None
    assert same([np.stack([one, one])], [np.stack([one, one])]) is None
    assert same([np.ones((2, 3))], [np.ones((2, 3))]) is None, "a batch is no row"
    assert same([one[:, :1]], [other[:, :1]]) is None
    assert same([one, one[0]], [other, other[0]]) is None, "some rows are no rows"


def test_classes_are_of_the_first_output() -> None:
    want = {"y": np.array([[1.0, 3.0]]), "z": np.array([[1.0, 3.0]])}
    have = {"y": np.array([[0.0, 4.0]]), "z": np.array([[3.0, 1.0]])}
    assert compared("d", [want], [have], None).same_class == 1


class Recorded:
    """A bundle whose golden samples have these inputs; to another sample it answers their sum, or refuses."""

    def __init__(self, path: str, samples: Sequence[tuple[float, float]], refusal: Exception | None = None) -> None:
        self.path, self.refusal = path, refusal
        self.signature = Signature((spec("a", 1), spec("b", 1)), (spec("y", 1),))
        inputs = [{"a": np.array([a]), "b": np.array([b])} for a, b in samples]
        self.golden = [Golden(one, {"y": np.array([10.0])}, {}) for one in inputs]

    def __call__(self, inputs: Any) -> dict[str, Any]:
        if self.refusal:
            raise self.refusal
        return {"y": inputs["a"] + inputs["b"]}


def test_a_sample_is_recorded_where_all_of_its_inputs_are() -> None:
    told: list[float] = []
    one, other = Recorded("one", [(1.0, 2.0), (5.0, 6.0)]), Recorded("other", [(1.0, 3.0), (5.0, 6.0)])
    found, apart = golden_answers(one, other, lambda step, share: told.append(share))  # type: ignore[arg-type]
    assert found is not None
    assert (found.data, found.samples, apart) == ("golden samples of one", 2, "")
    assert found.drift[0].max_abs_error == 7.0, "it answers 3 to the first, and the second is recorded"
    assert told == [0.5, 1.0]


@pytest.mark.parametrize("kind", [InvalidInput, MissingDependency])
def test_why_the_second_does_not_answer_is_told(kind: type[InvalidInput | MissingDependency]) -> None:
    other = Recorded("other", [], kind("an operator is unknown", hint="update it"))
    found, apart = golden_answers(Recorded("one", [(1.0, 2.0)]), other, lambda *_: None)  # type: ignore[arg-type]
    assert found is None
    assert apart == "other was made with other samples, and does not answer here: an operator is unknown"


def test_the_metric_goes_from_the_first_to_the_second() -> None:
    right, wrong = {"y": np.array([[0.0, 1.0]])}, {"y": np.array([[1.0, 0.0]])}
    data = Dataset("d", lambda: [], size=2, labels=np.array([1, 1]))
    found = compared("d", [right, right], [right, wrong], data).metric
    assert found is not None
    assert (found.before, found.after) == (1.0, 0.5)


def test_the_first_ones_answers_are_the_signal() -> None:
    want, have = {"y": np.array([[3.0, 4.0]])}, {"y": np.array([[3.0, 4.5]])}
    (there,) = compared("d", [want, want], [have, want], None).drift
    (back,) = compared("d", [have, want], [want, want], None).drift
    assert there.sqnr_db == pytest.approx(10 * np.log10(50 / 0.25))
    assert back.sqnr_db == pytest.approx(10 * np.log10((25 + 9 + 4.5**2) / 0.25))
    assert there.max_abs_error == 0.5


def spec(text: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(text, dtype, shape)


X, Y = (spec("x", 1, 3),), (spec("y", 1, 10),)


@pytest.mark.parametrize(
    ("inputs", "outputs", "apart"),
    [
        (X, Y, ""),
        ((spec("x", "n", 3),), Y, ""),
        (X, (spec("y", "n", 10),), ""),
        ((spec("z", 1, 3),), Y, "A takes x: float32[1, 3]; B z: float32[1, 3]"),
        ((spec("x", 1, 3, dtype="int8"),), Y, "A takes"),
        ((spec("x", 3),), Y, "A takes"),
        ((*X, spec("w", 1)), Y, "A takes"),
        (X, (spec("z", 1, 10),), "A gives y: float32[1, 10]; B z: float32[1, 10]"),
        (X, (spec("y", 1, 5),), "A gives"),
        (X, (), "A gives"),
    ],
)
def test_what_takes_or_gives_something_else_is_not_compared(inputs: Any, outputs: Any, apart: str) -> None:
    assert differ(Signature(X, Y), Signature(inputs, outputs)).startswith(apart)
    assert bool(differ(Signature(X, Y), Signature(inputs, outputs))) == bool(apart)
    assert bool(differ(Signature(inputs, outputs), Signature(X, Y))) == bool(apart)


# ---- bundles


@pytest.fixture
def pair(float_and_integers: tuple[Bundle, Bundle]) -> tuple[Bundle, Bundle]:
    return float_and_integers


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
    assert sorted(step.name for step in there.steps) == sorted(step.name for step in back.steps)
    turned = {step.name: step.proofs[::-1] for step in back.steps}
    assert all(step.proofs == turned[step.name] for step in there.steps)


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


def with_golden(bundle: Bundle, samples: list[Golden], folder: Path) -> Bundle:
    shutil.copytree(bundle.path, folder)
    outputs, references = iter([s.outputs for s in samples]), iter([s.reference for s in samples])
    write_golden(
        folder / "golden.npz", [s.inputs for s in samples], lambda _: next(outputs), lambda _: next(references)
    )
    return Bundle(folder, bundle.manifest)


@pytest.mark.slow
def test_recorded_answers_are_found_in_whatever_order(
    pair: tuple[Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = with_golden(pair[1], pair[1].golden[::-1], tmp_path / "turned")
    wanted = compare_bundles(*pair).answers
    monkeypatch.setattr(Bundle, "__call__", lambda self, inputs: pytest.fail("it was run"))
    assert compare_bundles(pair[0], turned).answers == wanted


@pytest.mark.slow
def test_what_was_not_recorded_is_asked_here(
    pair: tuple[Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_golden(pair[1], pair[1].golden[:1], tmp_path / "other")
    assert compare_bundles(pair[0], other).answers == compare_bundles(*pair).answers

    def refuse(self: Bundle, inputs: Any) -> None:
        raise MissingDependency("its runtime is not installed", hint="install it")

    monkeypatch.setattr(Bundle, "__call__", refuse)
    found = compare_bundles(pair[0], other)
    assert found.answers is None
    assert "does not answer here: its runtime is not installed" in found.apart
    assert len(found.quantities) == 4, "figures need no run"


@pytest.mark.slow
def test_images_are_prepared_as_the_first_ones_were(
    pair: tuple[Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(data: str, signature: Any, *, preprocess: Any) -> Any:
        asked.append(preprocess)
        return load_data("mine.npy", signature)

    np.save(tmp_path / "mine.npy", np.zeros((2, 1, 8, 8), np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparing.answers, "load_data", load)
    monkeypatch.setattr(comparing.answers, "load_config", lambda path: SimpleNamespace(preprocess="unit"))
    compare_bundles(*pair, data="mine.npy")
    with pytest.raises(UsageError, match="preprocess"):
        compare_bundles(*pair, data="mine.npy", preprocess="signed")  # which arrays do not need
    assert asked == ["unit", "signed"]


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
def test_both_are_timed_in_their_order_where_it_is_asked_for(
    pair: tuple[Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Brief(Stopwatch):
        def times(self, *, seconds: float = 0.0, progress: Callable[[str, float], None] = print) -> list[Timed]:
            return super().times(seconds=seconds, progress=progress)

    monkeypatch.setattr(comparing, "Stopwatch", Brief)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    told: list[tuple[str, float]] = []
    np.save(tmp_path / "mine.npy", np.zeros((2, 1, 8, 8), np.float32))
    found = compare_bundles(
        *pair, data=str(tmp_path / "mine.npy"), measure=True, threads=2,
        progress=lambda step, share: told.append((step, share)),
    )  # fmt: skip
    assert found.times is not None
    assert [(one.bundle, one.threads) for one in found.times] == [(bundle.path, 2) for bundle in pair]
    assert found.answers is not None
    assert found.answers.data == "samples of mine.npy"
    assert told[:2] == [("answering", 0.5), ("answering", 1.0)]
    assert told[-1] == ("running", 1.0)
    assert compare_bundles(*pair).times is None


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
    assert found.apart.startswith("A takes image: ")
    assert len(found.quantities) == 4
    np.save(tmp_path / "mine.npy", np.zeros((2, 1, 8, 8), np.float32))
    with pytest.raises(InvalidInput, match="A takes image: "):
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
    assert main(["compare", first, second, "--measure", "--threads", "999"]) == 2
    assert "999 threads on a machine of" in capsys.readouterr().err


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
