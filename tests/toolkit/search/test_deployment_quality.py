"""Quality is that of onnxruntime's answers on samples that are divided once, with the interval that they leave open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from passes.dataset import Dataset
from tests.toolkit.search.small_network import fitted, write
from toolkit.errors import UsageError
from toolkit.search.deployment.evaluator import Evaluator
from toolkit.search.deployment.kept import Kept, KeptResults
from toolkit.search.deployment.problem import Opened, Problem
from toolkit.search.deployment.quality import Judge, Quality, wilson
from toolkit.search.trials import Evaluated, Trial


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    model, data, validation = write(tmp_path_factory.mktemp("small"))
    return Opened(Problem(model, data, validation))


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (1, 20), (13, 20), (20, 20), (977, 1000)])
def test_the_interval_is_wilsons(hits, n):
    # 1.645 stands for the 95th percentile of the normal distribution, 1.64485
    want = binomtest(hits, n).proportion_ci(0.9, method="wilson")
    assert wilson(hits / n, n) == pytest.approx((want.low, want.high), abs=1e-4)


def test_the_float_models_quality_is_scikit_learns_accuracy(small, tmp_path):
    network, pixels, classes = fitted()
    quality = Judge(small.program, Kept(tmp_path)).quality(small.program, small.parts.searched)
    assert quality.mean == network.score(pixels[1000:1240:2], classes[1000:1240:2])
    assert quality.drop == 0
    assert quality.drop_interval[0] < 0 < quality.drop_interval[1]
    assert quality.m2 == pytest.approx(quality.n * quality.mean * (1 - quality.mean))


def test_no_sample_is_both_searched_on_and_published_on(small):
    parts = small.parts
    searched, held_out = ({sample["pixels"].tobytes() for sample in part} for part in (parts.searched, parts.held_out))
    assert len(searched) == len(held_out) == 120
    assert not searched & held_out
    assert parts.calibration_is_apart


def test_without_labels_quality_is_agreement_with_the_float_model(tmp_path):
    model, data, _ = write(tmp_path)
    alone = Opened(Problem(model, data))
    judge = Judge(alone.program, Kept(None))
    assert judge.metric(alone.parts.searched) == "agreement with the float model"
    assert judge.quality(alone.program, alone.parts.searched).mean == 1
    assert not alone.parts.calibration_is_apart


def test_the_floor_is_the_share_of_the_most_frequent_class(small, tmp_path):
    classes = fitted()[2][1000:1240:2]
    judge = Judge(small.program, Kept(tmp_path))
    assert judge.floor(small.parts.searched) == np.bincount(classes).max() / len(classes)
    assert judge.floor(small.parts.searched.take(16)) == np.bincount(classes[:16]).max() / 16


def test_where_all_labels_are_one_no_floor_is_drawn(small):
    one = replace(small.parts.searched, labels=np.full(120, 3), identity=None)
    assert Judge(small.program, Kept(None)).floor(one) == 0


def test_what_is_no_better_than_a_constant_answer_breaks_a_constraint(small, tmp_path, monkeypatch):
    evaluator = Evaluator(small.problem, "raspberry_pi_4", folder=tmp_path)
    config = {"stack": "tflite-fp32"}
    good = evaluator(Trial(0, config, "", 2, (0,), "start"))
    assert good.quality > good.meta["quality_floor"] > 0
    assert good.violation == 0
    floor = good.meta["quality_floor"]
    for mean, is_refused in ((floor, True), (floor - 0.01, True), (floor + 0.01, False)):
        worth = Quality(mean, wilson(mean, 120), 120, 0.0, 0.0, (0.0, 0.0))
        monkeypatch.setattr(Judge, "quality", lambda self, program, data, worth=worth: worth)
        assert (evaluator(Trial(0, config, "", 2, (0,), "start")).violation > 0) == is_refused
    # of few samples only the upper end of the interval counts: more of them may tell otherwise
    assert evaluator(Trial(0, config, "", 1, (0,), "start")).violation == 0


def test_equal_graphs_are_judged_once_whoever_asks(small, tmp_path, monkeypatch):
    first = Judge(small.program, Kept(tmp_path)).quality(small.program, small.parts.searched)
    runs, run = [], type(small.program).run
    monkeypatch.setattr(type(small.program), "run", lambda self, sample: runs.append(sample) or run(self, sample))
    assert Judge(small.program, Kept(tmp_path)).quality(small.program, small.parts.searched) == first
    assert not runs
    Judge(small.program, Kept(tmp_path)).quality(small.program, small.parts.searched.take(8))
    assert len(runs) == 8


def test_too_few_samples_to_keep_any_out_are_refused(tmp_path):
    model, _, _ = write(tmp_path)
    with pytest.raises(UsageError, match="12 samples are too few") as failure:
        Opened(Problem(model, np.zeros((12, 64), np.float32)))
    assert "32 or more" in failure.value.hint


def test_a_search_without_data_says_what_to_give(tmp_path):
    model, _, _ = write(tmp_path)
    with pytest.raises(UsageError, match="needs data") as failure:
        Opened(Problem(model))
    assert "--data" in failure.value.hint


def test_many_samples_for_calibration_leave_others_to_judge_by(tmp_path):
    model, _, _ = write(tmp_path)
    pixels = fitted()[1][:300]
    parts = Opened(Problem(model, Dataset.of_arrays("pixels", {"pixels": pixels}))).parts
    assert (len(parts.searched), len(parts.held_out), parts.calibration_is_apart) == (86, 86, True)
    assert next(iter(parts.searched))["pixels"].tobytes() == pixels[128:129].tobytes()


def test_what_was_kept_survives_and_what_was_damaged_does_not(tmp_path):
    result = Evaluated(0.5, {"latency_s": 1e-3}, 10, 2.5, 0.0, {"drop": 0.1}, 0.7)
    results = KeptResults(Kept(tmp_path))
    results["ab12"] = result
    assert KeptResults(Kept(tmp_path))["ab12"] == result
    (written,) = tmp_path.rglob("ab12.json")
    written.write_text('{"quality": 0.5, "mea')
    assert KeptResults(Kept(tmp_path)).get("ab12") is None


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("no folder")
    kept = Kept(tmp_path / "file")
    assert kept.found("ab12", lambda: [1.0]) == [1.0]
    assert kept.found("ab12", lambda: [2.0]) == [1.0]
