"""Heartbeats found step by step: counted by hand on made-up findings, and found in what was never trained on."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from targets.errors import InvalidInput
from toolkit.bench.heartbeats import CONFIG, Found, follow, recorded, scored, train
from toolkit.models.blueprints.sliding_conv import SlidingConv
from toolkit.models.signals import BEAT_KINDS, KEYWORDS, MOTION_KINDS, heartbeats, keywords, log_bands, motion, rhythms


def test_hits_misses_and_false_beats_are_counted_once() -> None:
    found = [Found([1.02, 2.10, 2.12, 3.00, 0.05], [1.0, 0.001, 0.003])]
    score = scored("by hand", found, [np.array([1.0, 2.0, 4.0, 4.95])], 5.0)
    assert (score.beats, score.hits, score.false) == (3, 2, 2)  # 4.95 is too near to the end, 0.05 to the beginning
    assert score.sensitivity == pytest.approx(2 / 3)
    assert score.precision == pytest.approx(1 / 2)
    assert score.slowest_step_s == 0.003  # the first step warms up


def test_rhythms_have_a_peak_where_they_say() -> None:
    made = rhythms(6, 1800, seed=3, noise_mv=0.0)
    for value, peaks in zip(made.values[:, :, 0], made.peaks_s, strict=True):
        for peak in peaks[(peaks > 0.1) & (peaks < 4.9)]:
            near = value[int((peak - 0.08) * 360) : int((peak + 0.08) * 360)]
            assert abs(near.argmax() - 0.08 * 360) <= 5
        gaps = np.diff(peaks)
        assert 60 / gaps.mean() == pytest.approx(85, abs=45)


@pytest.mark.parametrize(("make", "kinds", "channels"), [
    (heartbeats, BEAT_KINDS, 1), (motion, MOTION_KINDS, 6), (keywords, KEYWORDS, 1),
])  # fmt: skip
def test_signals_come_from_their_seed_and_labels_go_round(make, kinds, channels) -> None:  # type: ignore[no-untyped-def]
    one, same, other = make(12, 300, seed=1), make(12, 300, seed=1), make(12, 300, seed=2)
    assert one.values.shape == (12, 300, channels)
    assert one.values.dtype == np.float32
    assert np.array_equal(one.values, same.values)
    assert not np.array_equal(one.values, other.values)
    assert one.labels.tolist() == [i % len(kinds) for i in range(12)]
    with pytest.raises(InvalidInput, match="0 signals of 300 samples"):
        make(0, 300, seed=1)


def test_bands_tell_pitch_and_refuse_a_short_sound() -> None:
    tone = keywords(1, 2560, seed=0)
    for pitch_hz in (300.0, 1500.0, 3000.0):
        wave = np.sin(2 * np.pi * pitch_hz * np.arange(2560) / 8000).astype(np.float32)
        loudest = log_bands(type(tone)(wave[None, :, None], tone.labels, 8000.0))[0].mean(0).argmax()
        mel = np.linspace(2595 * np.log10(1 + 100 / 700), 2595 * np.log10(1 + 4000 / 700), 26)[1:-1]
        centres = 700 * (10 ** (mel / 2595) - 1)
        assert abs(loudest - np.abs(centres - pitch_hz).argmin()) <= 1
    with pytest.raises(InvalidInput, match="shorter than a frame of 256"):
        log_bands(keywords(1, 200, seed=0))


@pytest.fixture(scope="module")
def model() -> SlidingConv:
    return train(count=120, epochs=8)


@pytest.mark.slow
def test_beats_of_other_rhythms_are_found(model: SlidingConv) -> None:
    made = rhythms(6, CONFIG.length * 2, seed=5)
    found = [follow(model, v[:, 0]) for v in made.values]
    score = scored("others", found, made.peaks_s, 6.0)
    assert score.beats > 30
    assert score.sensitivity >= 0.95
    assert score.precision >= 0.9


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pywt") is None, reason="README, block real-networks, installs pywavelets")
def test_every_beat_of_a_recorded_ecg_is_found(model: SlidingConv) -> None:
    ecg = recorded()
    assert ecg is not None
    trace, peaks_s = ecg
    assert len(peaks_s) == 3  # 330 samples apart: 65 a minute at 360 Hz
    score = scored("recorded", [follow(model, trace)], [peaks_s], len(trace) / 360)
    assert (score.hits, score.false) == (3, 0)
