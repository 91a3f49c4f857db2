"""The bench of compression: cuts that keep what is asked unseen, and rows that say what each step bought."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

from passes.onnx_level.pack_weights import PackWeights
from passes.onnx_level.shorten_names import ShortenNames
from passes.torch_level.prune_channels import PruneChannels
from passes.torch_level.qat import TrainQuantized
from toolkit.bench import compression
from toolkit.bench.compression import Subject, compress
from toolkit.models import digits
from toolkit.models.digits import Small

pytestmark = pytest.mark.slow


def test_every_image_is_asked_about_once_by_networks_that_never_saw_it() -> None:
    cuts = list(compression._cuts(103, repeat=2))
    assert sorted(np.concatenate([asked for _, asked in cuts])) == list(range(103))
    for learnt, asked in cuts:
        assert sorted([*learnt, *asked]) == list(range(103))
    other = list(compression._cuts(103, repeat=3))
    assert not np.array_equal(cuts[0][1], other[0][1])


def test_the_interval_is_that_of_the_mean_over_images() -> None:
    rng = np.random.default_rng(0)
    before, after = (rng.random((3, 400)) < share for share in (0.95, 0.9))
    mean, interval = compression._compared(after.astype(float), before.astype(float))
    each = (after.astype(float) - before).mean(axis=0)
    expected = stats.norm.interval(0.95, loc=each.mean(), scale=stats.sem(each))
    assert mean == pytest.approx(after.mean() - before.mean())
    np.testing.assert_allclose(interval, expected, rtol=1e-4)


def test_moved_copies_hold_the_image_itself_and_its_neighbours() -> None:
    image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    copies, labels = compression._moved(image, np.array([4]), 1)
    assert labels.tolist() == [4] * 9
    assert any(np.array_equal(copy, image[0]) for copy in copies)
    assert [copy[0, 1, 1] for copy in copies] == list(range(9))


def test_each_step_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = load_digits(return_X_y=True)
    subject = Subject(
        images=(pixels[:150] / 16).astype(np.float32).reshape(-1, 1, 8, 8),
        labels=labels[:150],
        network=lambda: nn.Sequential(nn.Conv2d(1, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)),
        epochs=12,
        rate=1e-2,
        shift=0,
        steps={
            "too much": (PruneChannels(ratio=0.99, epochs=0),),
            "4-bit QAT": (TrainQuantized(activation="uint8", weight_bits=4, epochs=1),),
            "pack": (PackWeights(), ShortenNames()),
        },
    )
    monkeypatch.setattr(compression, "PARTS", 2)
    monkeypatch.setattr(compression, "NETWORKS", {"few digits": lambda: subject})
    whole, pruned, rounded, packed = compress("few digits", repeats=1)
    assert (whole.step, whole.smaller, whole.difference, whole.interval) == ("float32", 1.0, 0.0, (0.0, 0.0))
    assert (whole.images, whole.repeats) == (150, 1)
    assert whole.accuracy > 0.5, "of ten classes, after twelve epochs"
    assert pruned.size_bytes == whole.size_bytes
    assert pruned.notes[0].startswith("PruneChannels skipped: a ratio of 0.99 would empty a layer")
    assert packed.size_bytes < rounded.size_bytes < pruned.size_bytes
    assert packed.accuracy == rounded.accuracy
    assert packed.interval[0] <= packed.difference <= packed.interval[1]
    assert "raspberry_pi_4" in packed.predicted_s
    assert packed.latency_s > 0


def test_the_student_of_the_digits_has_an_eighth_of_the_parameters() -> None:
    parameters = [sum(p.numel() for p in network.parameters()) for network in (Small(), digits.build())]
    assert 8 < parameters[1] / parameters[0] < 9
