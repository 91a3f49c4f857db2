"""Recordings as data: every width of PCM, pieces of the model's length, and what is refused."""

from __future__ import annotations

import wave
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from passes.dataset import Array
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput
from toolkit.data import load_data

TONE = np.sin(np.arange(1000) / 7)
OUT = (TensorSpec("y", "float32", (1, 2)),)


def takes(*shape: int | str, dtype: str = "float32") -> Signature:
    return Signature((TensorSpec("sound", dtype, shape),), OUT)


def written(path: Path, values: Array) -> Path:
    wavfile.write(path, 16000, values)
    return path


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"), [("uint8", 127, 128), ("int16", 32767, 0), ("int32", 2**31 - 1, 0)]
)
def test_pcm_as_scipy_writes_it_is_read_in_units_of_full_scale(
    tmp_path: Path, dtype: str, scale: int, offset: int
) -> None:
    stored = np.round(TONE * scale + offset).astype(dtype)
    (sample,) = load_data(str(written(tmp_path / "tone.wav", stored)), takes(1, 1000))
    assert (sample["sound"].shape, sample["sound"].dtype) == ((1, 1000), np.float32)
    half = 2 ** (8 * stored.dtype.itemsize - 1)
    np.testing.assert_allclose(sample["sound"][0], (stored.astype(np.float64) - offset) / half, atol=1e-7)


def test_24_bits(tmp_path: Path) -> None:
    stored = np.round(TONE * (2**23 - 1)).astype("<i4")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(16000)
        file.writeframes(stored.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    (sample,) = load_data(str(tmp_path / "tone.wav"), takes(1, 1, "n"))
    np.testing.assert_allclose(sample["sound"][0, 0], stored / 2**23, atol=1e-7)


def test_a_long_recording_is_pieces_one_after_the_other(tmp_path: Path) -> None:
    path = written(tmp_path / "tone.wav", (TONE * 32767).astype(np.int16))
    data = load_data(str(path), takes(1, 1, 300))
    assert len(data) == 3  # 100 values are left and fill no piece
    pieces = np.concatenate([sample["sound"].reshape(-1) for sample in data])
    (whole,) = load_data(str(path), takes(1, "length"))
    np.testing.assert_array_equal(pieces, whole["sound"][0, :900])


@pytest.mark.parametrize(
    ("signature", "values", "said"),
    [
        (takes(1, 2000), TONE, "holds 1000 values, the model takes 2000"),
        (takes(1, 500), np.stack([TONE, TONE], 1), "has 2 channels"),
        (takes(1, 3, 500), TONE, "not one mono recording"),
        (takes(1, 500, dtype="int64"), TONE, "not one mono recording"),
        (Signature((*takes(1, 500).inputs, TensorSpec("state", "float32", (2,))), OUT), TONE, "not one mono recording"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, signature: Signature, values: Array, said: str) -> None:
    path = written(tmp_path / "tone.wav", (values * 32767).astype(np.int16))
    with pytest.raises(InvalidInput, match=said) as refusal:
        load_data(str(path), signature)
    assert refusal.value.hint


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all", b"RIFF\xff\xff\xff\xffWAVEfmt "])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tone.wav").write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot read the recording tone"):
        load_data(str(tmp_path / "tone.wav"), takes(1, 500))


def test_any_damage_to_a_recording_is_told_or_read(tmp_path: Path) -> None:
    path = written(tmp_path / "tone.wav", (TONE[:64] * 32767).astype(np.int16))
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(sound)
        for place in rng.integers(0, 48, rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
        with suppress(InvalidInput):  # any other error fails
            assert all(np.isfinite(sample["sound"]).all() for sample in load_data(str(path), takes(1, 16)))
