"""What `toolkit compare` says of two bundles, and its document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from passes.proof import Drift, MetricChange
from tests.toolkit.compared_documents import FITTED, document, proof, report
from toolkit.cli.comparison import show_comparison
from toolkit.cli.output import EXTRAPOLATED
from toolkit.comparing import Comparison
from toolkit.comparing.answers import Answers, compared
from toolkit.comparing.documents import FIXED, parts, quantities, steps, versions
from toolkit.report.reading import Document
from toolkit.stopwatch import Timed


class Named:
    def __init__(self, path: str) -> None:
        self.path = path


def comparison(a: Document, b: Document, answers: Answers | None = None) -> Comparison:
    return Comparison(
        bundles=(Named("a"), Named("b")),  # type: ignore[arg-type]
        documents=(a, b), quantities=quantities(a, b), parts=parts(a, b), steps=steps(a, b), versions=versions(a, b),
        answers=answers, apart="" if answers else "A takes x; B y", times=None,
    )  # fmt: skip


def test_all_that_differs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {
        "size_bytes": 250, "latency_s": 0.75, "latency_interval_s": [0.5, 1.0], "memory_bytes": 1e6,
        "memory_interval_bytes": [5e5, 2e6], "energy_j": 3.0, "energy_interval_j": [2.0, 4.0],
        "extrapolated": True,
    }  # fmt: skip
    metric = MetricChange(name="top-1 accuracy", before=0.9, after=0.8, drop_interval=(0.0, 0.2), samples=50)
    kinds = [(f"kind{i}", float(i)) for i in range(8)]
    one = document([proof("Fuse"), proof("Cast", 60.0), proof("Pack", -inf)], [("kind7", 10.0), *kinds[:7]])
    other = document(
        [proof("Fuse"), proof("Quantize", 30.0, "narrowed", bits=8), proof("Pack", 20.0, layers=["a"] * 30)],
        model={"name": "other", "digest": "1234567890abcdef"},
        stack={"id": "c/d", "runtime": "r", "calibrated": False},
        estimate={
            "operators": [{"class": kind, "latency_s": s} for kind, s in (*kinds, ("kind1", 1.0))],
            "fixed_s": 0.5,
            **FITTED,
            "provenance": "uncalibrated",
            "energy_provenance": "a guess",
        },
        after=summary,
        artifact={"file": "m.tflite", "format": "tflite", "complete": True, "checked": "through something else"},
        verdict={"outcome": "does not fit"},
        accuracy={"metric": metric.to_json(), "identical": False, "worst_sqnr_db": 12.34, "data": "d", "samples": 50},
        versions={"torch": "2.13"},
    )
    answers = Answers(
        data="samples of mine", samples=4, same_class=3, metric=metric,
        drift=(Drift(output="y", sqnr_db=20.0, max_abs_error=0.125), Drift(output="z", sqnr_db=inf, max_abs_error=0.0),
               Drift(output="w", sqnr_db=-inf, max_abs_error=inf)),
    )  # fmt: skip
    show_comparison(comparison(one, other, answers))
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "A: a B: b B / A",
        "stack a/b c/d",
        "artefact model.onnx m.tflite",
        "size of the model 1.00 kB 250 B 0.25x",
        "latency 1.50 s [1.00 s, 2.00 s] 750 ms [500 ms, 1.00 s] 0.5x [0.25, 1]",
        "memory 1.00 B [1.00 B, 2.00 B] 1.00 MB [500 kB, 2.00 MB] 1e+06x [2.5e+05, 2e+06]",
        "energy 1.50 J [1.00 J, 2.00 J] 3.00 J [2.00 J, 4.00 J] 2x [1, 4]",
        "from the float model identical 12.3 dB",
        "top-1 accuracy - 80.00% of 50 (d)",
        "verdict fits does not fit",
        "latency of A: fitted",
        "latency of B: uncalibrated",
        "memory: counted",
        "energy of A: data sheet",
        "energy of B: a guess",
        f"B: {EXTRAPOLATED}",
        "not the same model: net 0 and other 1234567890ab",
        "",
        "predicted time of A B B - A",
        "kind7 x 1 10.0 s 7.00 s -3.00 s",
        "kind1 x 1 and 2 1.00 s 2.00 s +1.00 s",
        "each inference 500 ms 500 ms +0 s",
        "kind0 x 1 0 s 0 s +0 s",
        "kind2 x 1 2.00 s 2.00 s +0 s",
        "kind3 x 1 3.00 s 3.00 s +0 s",
        "3 other kinds 15.0 s 15.0 s +0 s",
        "all 31.5 s 29.5 s -2.00 s",
        "",
        "pass A B",
        "Cast kept, 60.0 dB -",
        "Quantize - narrowed, 30.0 dB",
        "Pack kept, no SQNR kept, 20.0 dB (layers=['a', 'a', 'a', 'a', 'a', 'a', 'a', '...)",
        "",
        "answers of B: through something else",
        "B's answers against A's, on 4 samples of mine:",
        "y: 20.0 dB, at most 0.125 apart",
        "z: identical",
        "w: not finite in one of them alone",
        "the same class in 3 of 4",
        "top-1 accuracy: 90.00% and 80.00%, B - A -10.00% [-20.00%, +0.00%] (90 % interval, paired)",
        "made with another torch: none and 2.13",
    ]


def test_a_model_is_told_by_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    same, other = ({"name": "copy", "digest": "0"}, {"name": "net", "digest": "1"})
    show_comparison(comparison(document(), document(model=same)))
    assert "not the same model" not in capsys.readouterr().out
    show_comparison(comparison(document(), document(model=other)))
    assert "not the same model: net 0 and net 1\n" in capsys.readouterr().out


def test_beside_nothing_there_is_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = document(after={**report()["after"], "energy_j": 0.0, "energy_interval_j": [0.0, 0.0]})
    show_comparison(comparison(nothing, document()))
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "energy 0 J [0 J, 0 J] 1.50 J [1.00 J, 2.00 J] -" in said


def test_answers_where_there_were_none_are_finite(capsys: pytest.CaptureFixture[str]) -> None:
    answers = compared("d", [{"y": np.zeros((1, 3))}], [{"y": np.array([[0.0, 0.5, 0.0]])}], None)
    show_comparison(comparison(document(), document(), answers))
    said = capsys.readouterr().out
    assert "at most 0.5 apart" in said
    assert "not finite" not in said


def test_of_a_pass_only_the_settings_that_differ_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    ours = document([proof("Quantize", 30.0, axis=1, bits=8, layers="a" * 40)])
    theirs = document([proof("Quantize", 30.0, axis=1, bits=4, layers="a" * 41)])
    show_comparison(comparison(ours, theirs))
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"Quantize kept, 30.0 dB (bits=8, layers={'a' * 40}) kept, 30.0 dB (bits=4, layers={'a' * 37}...)" in said


def timed(bundle: str, medians_s: Sequence[float]) -> Timed:
    return Timed(
        bundle=Path(bundle), stack="a/b", ran="a test", machine="a machine", threads=1, firsts_s=[0.1],
        loads_s=[[s] for s in medians_s], estimate_s=(1.5, 1.0, 2.0), provenance="fitted", extrapolated=False,
        incomparable="",
    )  # fmt: skip


TIMES = timed("a", [1.0] * 9), timed("b", [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])


def test_the_document_holds_all_that_is_compared() -> None:
    metric = MetricChange(name="top-1 accuracy", before=0.9, after=0.8, drop_interval=(0.0, 0.2), samples=50)
    accuracy = {"identical": False, "worst_sqnr_db": 30.0, "data": "d", "samples": 50}
    one = document([proof("Cast")], [("conv", 1.0), ("conv", 2.0)], versions={"torch": "2.13"})
    other = document(
        [], [("conv", 2.0)], stack={"id": "c/d", "runtime": "s", "calibrated": False},
        after={**one.after.model_dump(), "size_bytes": 250, "latency_s": 3.0, "latency_interval_s": [2.0, 4.0]},
        accuracy={**accuracy, "metric": metric.to_json()}, verdict={"outcome": "does not fit"},
    )  # fmt: skip
    drift = Drift(output="y", sqnr_db=20.0, max_abs_error=0.125)
    answers = Answers(data="samples of mine", samples=4, same_class=3, metric=metric, drift=(drift,))
    found = replace(comparison(one, other, answers), times=TIMES).to_json()
    assert [bundle["path"] for bundle in found["bundles"]] == ["a", "b"]
    assert found["bundles"][0]["accuracy"]["metric"] is None
    assert found["bundles"][1] == {
        "path": "b", "model": "net", "model_digest": "0", "runtime": "s", "calibrated": False, "stack": "c/d",
        "provenance": {"latency": "fitted", "memory": "counted", "energy": "data sheet"}, "artifact": "model.onnx",
        "outcome": "does not fit", "accuracy": {**accuracy, "metric": metric.to_json()},
    }  # fmt: skip
    sizes, latencies = found["quantities"]["size_bytes"], found["quantities"]["latency_s"]
    assert sizes == {"values": [1000, 250], "intervals": None, "ratio": 0.25, "ratio_interval": None}
    assert latencies == {
        "values": [1.5, 3.0], "intervals": [[1.0, 2.0], [2.0, 4.0]], "ratio": 2.0, "ratio_interval": [1.0, 4.0]
    }  # fmt: skip
    assert found["classes"] == {
        "conv": {"operators": [2, 1], "latency_s": [3.0, 2.0]},
        FIXED: {"operators": [0, 0], "latency_s": [0.5, 0.5]},
    }
    assert found["passes"] == [{"pass": "Cast", "in": [proof("Cast"), None]}]
    assert found["versions"] == {"torch": ["2.13", None]}
    assert found["answers"] == {
        "data": "samples of mine", "samples": 4, "drift": [drift.to_json()], "same_class": 3, "metric": metric.to_json()
    }  # fmt: skip
    assert [bundle["bundle"] for bundle in found["times"]["bundles"]] == ["a", "b"]
    assert (found["times"]["ratio"], found["times"]["interval"]) == (6.0, [3.0, 9.0])


def test_the_document_says_what_was_not_compared() -> None:
    found = comparison(document(), document()).to_json()
    assert (found["answers"], found["answers_apart"], found["times"]) == (None, "A takes x; B y", None)


def test_times_are_said_last(capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(replace(comparison(document(), document()), times=TIMES))
    said = capsys.readouterr().out.split("\n\n")[-1]
    assert said.startswith("on a machine, in turns: ")
    assert "  6x [3, 9] the time of a\n" in said


def test_what_is_alike_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    known = document(accuracy={"metric": None, "identical": False, "worst_sqnr_db": None, "data": "d", "samples": 1})
    show_comparison(comparison(known, known))
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "latency: fitted" in said
    assert "latency 1.50 s [1.00 s, 2.00 s] 1.50 s [1.00 s, 2.00 s] 1x" in said
    assert "from the float model without SQNR without SQNR" in said
    assert said.count("each inference 500 ms 500 ms +0 s") == said.count("all 500 ms 500 ms +0 s") == 1
    assert not [line for line in said if "other kinds" in line]
    assert "answers: not compared; A takes x; B y" in said
    assert not [line for line in said if line.startswith(("pass", "not the same", "made with"))]
