"""Synthesised signals with labels: heartbeats, six-axis motion, spoken-keyword-like tones.

None of them is a recording. They are sums of simple curves with the parameters stated here, noise included, made from a
seed; they show that a network can be trained, quantized and run, not how well it does on patients or people. Shapes
are (count, samples, channels), the (B, L, D) of the blueprints; labels go round: sample i is of kind i % kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from targets.errors import InvalidInput
from toolkit.rng import generator

__all__ = [
    "BEAT_KINDS", "KEYWORDS", "MOTION_KINDS", "Rhythms", "Signals", "heartbeats", "keywords", "log_bands", "motion",
    "rhythms",
]  # fmt: skip

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Signals:
    """`values` float32 (count, samples, channels); `labels` int64 (count,); `rate_hz` samples a second."""

    values: NDArray[np.float32]
    labels: NDArray[np.int64]
    rate_hz: float


def _signals(values: _Floats, kinds: int, rate_hz: float) -> Signals:
    return Signals(values.astype(np.float32), np.arange(len(values)) % kinds, rate_hz)


def _check(count: int, samples: int) -> None:
    if min(count, samples) < 1:
        raise InvalidInput(
            f"{count} signals of {samples} samples cannot be made", hint="count and samples are 1 or more"
        )


# ---- heartbeats

BEAT_KINDS = ("normal", "ventricular", "atrial")
"""Usual; wide QRS, no P, T turned; early and without the usual P."""

_CENTRES = np.array([0.20, 0.37, 0.40, 0.43, 0.65])  # P, Q, R, S, T as fractions of the window
_HEIGHTS_MV = np.array(
    [
        [0.15, -0.10, 1.00, -0.25, 0.35],
        [0.00, -0.15, 1.20, -0.45, -0.40],
        [-0.08, -0.10, 0.95, -0.25, 0.30],
    ]
)
_WIDTHS = np.array(
    [
        [0.025, 0.010, 0.012, 0.012, 0.040],
        [0.025, 0.025, 0.030, 0.030, 0.055],
        [0.020, 0.010, 0.012, 0.012, 0.040],
    ]
)
_EARLY = np.array([0.0, -0.03, -0.10])


def heartbeats(count: int, samples: int = 256, *, seed: int, channels: int = 1, noise_mv: float = 0.03) -> Signals:
    """One beat a window, in millivolt: each the sum of five bell curves (P, Q, R, S, T).

    Centres vary by 1 % of the window, widths by 10 %, heights by 10 %; the baseline wanders by up to 0.05 mV in one
    period; white noise has a deviation of `noise_mv`. The window is one second. Channels see the same beat at
    amplitudes between 0.5 and 1. Form after McSharry et al. 2003, IEEE Trans. Biomed. Eng. 50(3): bell curves at fixed
    phases of the beat.

    Raises:
        InvalidInput: count or samples below 1.
    """
    _check(count, samples)
    rng = generator(seed, "signals", "heartbeats")
    kinds = np.arange(count) % len(BEAT_KINDS)
    time = np.linspace(0, 1, samples, endpoint=False)
    centres = _CENTRES + _EARLY[kinds, None] + rng.normal(0, 0.01, (count, 5))
    widths = _WIDTHS[kinds] * rng.uniform(0.9, 1.1, (count, 5))
    heights = _HEIGHTS_MV[kinds] * rng.uniform(0.9, 1.1, (count, 5))
    beats = sum(
        heights[:, i, None] * np.exp(-(((time - centres[:, i, None]) / widths[:, i, None]) ** 2) / 2) for i in range(5)
    )
    wander = 0.05 * np.sin(2 * np.pi * (time + rng.uniform(0, 1, (count, 1))))
    gains = np.linspace(1, 0.5, channels) if channels > 1 else np.ones(1)
    values = (beats + wander)[:, :, None] * gains + rng.normal(0, noise_mv, (count, samples, channels))
    return _signals(values, len(BEAT_KINDS), float(samples))


@dataclass(frozen=True)
class Rhythms:
    """`values` float32 (count, samples, 1) in millivolt; `peaks_s`, for each, when its R waves are; `rate_hz`."""

    values: NDArray[np.float32]
    peaks_s: tuple[NDArray[np.float64], ...]
    rate_hz: float


def rhythms(count: int, samples: int, *, seed: int, rate_hz: float = 360.0, noise_mv: float = 0.03) -> Rhythms:
    """Runs of beats: of each kind the bell curves of `heartbeats`, with a second for the window and R at its time.

    A rhythm has 50 to 120 beats a minute, of which each interval varies by 5 %; four beats of five are normal, the
    others of either other kind; amplitudes are between 0.6 and 1.8 of those of `heartbeats`, widths of each rhythm
    between 0.7 and 1.4; the baseline wanders by up to 0.1 mV at 0.3 Hz; the noise is white.

    Raises:
        InvalidInput: count or samples below 1.
    """
    _check(count, samples)
    made = [_rhythm(i, samples / rate_hz, np.arange(samples) / rate_hz, seed) for i in range(count)]
    rng = generator(seed, "signals", "rhythms", "noise")
    values = np.stack([value for value, _ in made])
    values = values + rng.normal(0, noise_mv, values.shape)
    return Rhythms(values[:, :, None].astype(np.float32), tuple(peaks for _, peaks in made), rate_hz)


def _rhythm(index: int, end_s: float, time_s: _Floats, seed: int) -> tuple[_Floats, _Floats]:
    """The curve and its R waves; a beat that is cut off at either end leaves its rest in the curve."""
    rng = generator(seed, "signals", "rhythms", str(index))
    interval_s = 60 / rng.uniform(50, 120)
    beats = int(end_s / interval_s * 1.3) + 4
    peaks = np.cumsum(interval_s * rng.normal(1, 0.05, beats)) - interval_s * rng.uniform(0.5, 2)
    kinds = rng.choice(len(BEAT_KINDS), beats, p=(0.8, 0.1, 0.1))
    scale, width = rng.uniform(0.6, 1.8), rng.uniform(0.7, 1.4)
    curve = 0.1 * np.sin(2 * np.pi * (0.3 * time_s + rng.uniform(0, 1)))
    for peak, kind in zip(peaks, kinds, strict=True):
        centres = peak + (_CENTRES - _CENTRES[2]) * min(1.0, interval_s)
        offsets = (time_s[:, None] - centres) / (_WIDTHS[kind] * width)
        curve = curve + scale * (_HEIGHTS_MV[kind] * np.exp(-(offsets**2) / 2)).sum(1)
    return curve, peaks[(peaks >= 0) & (peaks < end_s)]


# ---- six axes of motion

MOTION_KINDS = ("standing", "walking", "running", "turning")

_STEPS_HZ = np.array([0.0, 1.8, 2.8, 0.0])
_SWING_M_S2 = np.array([0.0, 2.5, 8.0, 0.3])
_SWAY_RAD_S = np.array([0.02, 0.6, 1.5, 0.1])
_TURN_RAD_S = np.array([0.0, 0.0, 0.0, 2.0])
_GRAVITY_M_S2 = 9.81


def motion(count: int, samples: int = 128, *, seed: int, rate_hz: float = 50.0, noise: float = 0.1) -> Signals:
    """Six channels: acceleration in m/s² (x, y, z), then rate of turn in rad/s (x, y, z).

    Gravity lies along z, tilted by up to 0.2 rad; steps add a harmonic and its double at a cadence that varies by 10 %
    and begins anywhere; turning is a constant rate about z of either sign; white noise has a deviation of `noise` in
    the unit of each channel.

    Raises:
        InvalidInput: count or samples below 1.
    """
    _check(count, samples)
    rng = generator(seed, "signals", "motion")
    kinds = np.arange(count) % len(MOTION_KINDS)
    time = np.arange(samples) / rate_hz
    cadence = _STEPS_HZ[kinds] * rng.uniform(0.9, 1.1, count)
    phase = 2 * np.pi * (cadence[:, None] * time + rng.uniform(0, 1, (count, 1)))
    swing = (_SWING_M_S2[kinds] * rng.uniform(0.8, 1.2, count))[:, None]
    sway = (_SWAY_RAD_S[kinds] * rng.uniform(0.8, 1.2, count))[:, None]
    turn = (_TURN_RAD_S[kinds] * rng.choice([-1.0, 1.0], count) * rng.uniform(0.8, 1.2, count))[:, None]
    tilt = rng.uniform(-0.2, 0.2, (2, count, 1))
    channels = (
        _GRAVITY_M_S2 * np.sin(tilt[0]) + 0.5 * swing * np.sin(phase),
        _GRAVITY_M_S2 * np.sin(tilt[1]) + 0.3 * swing * np.sin(phase / 2),
        _GRAVITY_M_S2 * np.cos(tilt[0]) * np.cos(tilt[1]) + swing * (np.sin(phase) + 0.4 * np.sin(2 * phase)),
        sway * np.cos(phase / 2),
        0.7 * sway * np.cos(phase),
        0.3 * sway * np.sin(phase / 2) + turn,
    )
    values = np.stack([np.broadcast_to(channel, (count, samples)) for channel in channels], axis=-1)
    return _signals(values + rng.normal(0, noise, values.shape), len(MOTION_KINDS), rate_hz)


# ---- tones like spoken keywords

KEYWORDS = ("up", "down", "left", "right", "background")
"""Names of the tones; they are not these words spoken."""

_FORMANTS_HZ = np.array(
    [
        [[700, 1200], [300, 900]],
        [[800, 1300], [500, 1900]],
        [[500, 1800], [600, 1000]],
        [[650, 1100], [300, 2200]],
    ]
)


def keywords(count: int, samples: int = 8000, *, seed: int, rate_hz: float = 8000.0, noise: float = 0.02) -> Signals:
    """One channel of sound in [-1.2, 1.2] or so: a voice of 100 to 200 Hz whose two formants glide from one pair of
    frequencies to another, another for each kind; background is noise alone.

    The tone lasts 40 to 60 % of the window and begins within its first third; formants vary by 5 %, harmonics up to 3.5
    kHz are weighted by bell curves of 150 Hz about the formants; white noise has a deviation of `noise`.

    Raises:
        InvalidInput: count or samples below 1.
    """
    _check(count, samples)
    values = np.stack([_keyword(i, samples, rate_hz, seed, noise) for i in range(count)])
    return _signals(values[:, :, None], len(KEYWORDS), rate_hz)


def _keyword(index: int, samples: int, rate_hz: float, seed: int, noise: float) -> _Floats:
    rng = generator(seed, "signals", "keywords", str(index))
    sound = rng.normal(0, noise, samples)
    kind = index % len(KEYWORDS)
    if kind == len(_FORMANTS_HZ):
        return sound * rng.uniform(0.5, 5)
    start, length = int(samples * rng.uniform(0.05, 0.33)), int(samples * rng.uniform(0.4, 0.6))
    share = np.linspace(0, 1, length)[:, None]
    first, last = _FORMANTS_HZ[kind] * rng.uniform(0.95, 1.05, (2, 2))
    formants = first + (last - first) * share  # (length, 2)
    voice_hz = rng.uniform(100, 200)
    harmonics_hz = voice_hz * np.arange(1, int(3500 / voice_hz) + 1)
    weights = sum(np.exp(-(((harmonics_hz - formants[:, i, None]) / 150) ** 2) / 2) for i in range(2))
    time = np.arange(length)[:, None] / rate_hz
    tone = (weights * np.sin(2 * np.pi * harmonics_hz * time)).sum(1) * np.hanning(length)
    sound[start : start + length] += tone / np.abs(tone).max() * rng.uniform(0.5, 1)
    return sound


def log_bands(sound: Signals, *, frame: int = 256, hop: int = 160, bands: int = 24) -> NDArray[np.float32]:
    """Natural logarithm of the energy in mel bands, float32 (count, frames, bands), about -14 to 6.

    Frames have a Hann window; the bands are triangles of equal width in mel (2595 log10(1 + f/700), Stevens, Volkmann
    and Newman 1937 in O'Shaughnessy's form) from 100 Hz to half the rate.

    Raises:
        InvalidInput: the sound is shorter than one frame.
    """
    wave = sound.values[:, :, 0]
    if wave.shape[1] < frame:
        raise InvalidInput(
            f"a sound of {wave.shape[1]} samples is shorter than a frame of {frame}", hint="make it longer"
        )
    frames = np.lib.stride_tricks.sliding_window_view(wave, frame, axis=1)[:, ::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(frame), axis=-1)) ** 2
    logs: NDArray[np.float32] = np.log(power @ _triangles(frame, sound.rate_hz, bands).T + 1e-6).astype(np.float32)
    return logs


def _triangles(frame: int, rate_hz: float, bands: int) -> _Floats:
    """(bands, frame // 2 + 1) weights."""
    mel = np.linspace(2595 * np.log10(1 + 100 / 700), 2595 * np.log10(1 + rate_hz / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.fft.rfftfreq(frame, 1 / rate_hz)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights: _Floats = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    return weights
