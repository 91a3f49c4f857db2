"""Silero's voice activity detector on recorded speech: what quantization is judged on where a state is carried along.

The network is the file of the package silero-vad that takes many frames of 32 ms at once, and carries its state from
each to the next. Speech is that of Debian's package pocketsphinx-testdata, 16 kHz: single cards are read out to
calibrate with, a novel and commands are asked about, each recording as it is and with white noise at 5 dB.
"""

from __future__ import annotations

import wave
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from passes.dataset import Array, Dataset
from toolkit.bench.trained import Task
from toolkit.rng import generator
from toolkit.sources import load_source

__all__ = ["SPEECH", "frames", "task"]

SPEECH = Path("/usr/share/pocketsphinx/test/data")

_HOP, _LOOK_BACK = 512, 64  # samples: a frame, and what it is given of the one before
_FRAMES = 32  # at once, about a second
_NOISE_DB = 5.0  # speech over noise
_CALIBRATED_ON, _ASKED = ("cards/*.wav",), ("librivox/*.wav", "goforward.raw", "numbers.raw", "something.raw")


def task() -> Task | None:
    """None where the network or the speech is not installed. A decision is whether a frame is speech."""
    spec = find_spec("silero_vad")  # not imported: it wants torchaudio
    if spec is None or spec.origin is None or not SPEECH.is_dir():
        return None
    path = Path(spec.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    program = load_source(path, inputs=[f"input={_FRAMES}x{_LOOK_BACK + _HOP}"]).program
    return Task("silero-vad", program, _dataset(_CALIBRATED_ON), _dataset(_ASKED), decide=_is_speech)


def _is_speech(probabilities: Array) -> Array:
    return probabilities > 0.5


def frames(signal: Array) -> Array:
    """(n, 32, 576) of a signal of at least 32 * 512 samples: pieces of it, each frame with the end of the one before.

    What is left behind the last whole piece is not read.
    """
    padded = np.concatenate([np.zeros(_LOOK_BACK, signal.dtype), signal])
    windows = np.lib.stride_tricks.sliding_window_view(padded, _LOOK_BACK + _HOP)[::_HOP]
    whole = len(windows) // _FRAMES * _FRAMES
    return np.ascontiguousarray(windows[:whole]).reshape(-1, _FRAMES, _LOOK_BACK + _HOP)


def _dataset(patterns: Iterable[str]) -> Dataset:
    files = [file for pattern in patterns for file in sorted(SPEECH.glob(pattern))]
    pieces = np.concatenate([frames(version) for file in files for version in _versions(file)])
    state = np.zeros((1, 1, 128), np.float32)
    return Dataset("speech", lambda: ({"input": piece, "h": state, "c": state} for piece in pieces), len(pieces))


def _versions(file: Path) -> tuple[Array, Array]:
    """The recording, and the recording in noise."""
    clean = _read(file)
    noise = generator(0, "noise", file.name).standard_normal(len(clean)) * clean.std() * 10 ** (-_NOISE_DB / 20)
    return clean, np.clip(clean + noise, -1, 1).astype(np.float32)


def _read(file: Path) -> Array:
    """(n,) float32 in [-1, 1]; one channel of 16 bits."""
    if file.suffix == ".wav":
        with wave.open(str(file)) as recording:
            content = recording.readframes(recording.getnframes())
    else:
        content = file.read_bytes()
    return np.frombuffer(content, "<i2").astype(np.float32) / 32768
