"""The bench of the language models: equal parameters, equal tokens, figures that are there."""

from __future__ import annotations

import json
from math import inf

import pytest
import torch

from toolkit.bench.resnet_bk.__main__ import main
from toolkit.bench.resnet_bk.learning import STABILITY, Lesson, compare, without_clamps
from toolkit.bench.resnet_bk.scaling import measure
from toolkit.models.resnet_bk import Config

TINY = Config(width=16, heads=4, hidden=24, blocks=1)
LESSON = Lesson(windows=24, context=32, batch=8, asked=3)


@pytest.mark.slow
def test_both_models_are_timed_at_each_length():
    rows = list(measure(TINY, [16, 33], tokens=66, device=torch.device("cpu"), precision="float32"))
    assert [(row.model, row.length, row.batch) for row in rows] == [
        ("resnet_bk", 16, 4), ("resnet_bk", 33, 2), ("transformer", 16, 4), ("transformer", 33, 2)
    ]  # fmt: skip
    assert all(row.forward_s > 0 and row.step_s > 0 and not row.failed for row in rows)


@pytest.mark.slow
def test_models_that_are_compared_have_equal_parameters_and_tokens():
    baseline, *ours = compare(TINY, LESSON, {"resnet_bk": {}, "learned links": {"links": "learned"}})
    assert [row.model for row in (baseline, *ours)] == ["transformer", "resnet_bk", "learned links"]
    assert abs(baseline.parameters / ours[0].parameters - 1) < 0.02
    assert {row.tokens for row in (baseline, *ours)} == {LESSON.tokens}
    assert all(1 < row.perplexity < 200 and not row.failed for row in (baseline, *ours))
    assert ours[0].largest_potential
    assert ours[0].largest_feature


@pytest.mark.slow
def test_the_ablation_turns_each_clamp_off():
    rows = list(without_clamps(TINY, LESSON))
    assert tuple(row.model for row in rows) == STABILITY
    assert all(row.largest_feature and row.largest_feature <= 10 * (1 + 1e-5) for row in rows)  # 1 / broadening


@pytest.mark.slow
def test_more_training_helps():
    (_, short), (_, long) = (
        list(compare(TINY, Lesson(windows=windows, context=32, batch=8, asked=8), {"resnet_bk": {}}))
        for windows in (24, 480)
    )
    assert long.perplexity < 0.8 * short.perplexity


def test_lengths_are_told_as_a_document(capsys: pytest.CaptureFixture[str]):
    assert main(["lengths", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "toolkit.bench.resnet_bk/1"
    half, whole = document["lengths"]
    assert half["precision"] == "float16"
    assert half["length"] * half["token_bytes"] < 15e9
    assert min(half["length"], whole["length"]) > 131_072


def test_unknown_parts_and_missing_gpus_are_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["tim"])
    assert "unknown: tim; known: time, learn" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            main(["--device", "cuda"])
        assert "no GPU that torch can use" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_cannot_be_trained_has_a_reason_and_no_perplexity():
    (row,) = compare(TINY, Lesson(windows=0, context=32), {})
    assert "no samples to train on" in row.failed
    assert row.perplexity == inf
