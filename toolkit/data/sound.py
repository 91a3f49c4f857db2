"""A .wav recording, cut into pieces as long as the model's input."""

from __future__ import annotations

import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput
from toolkit.data.fitting import fitting

__all__ = ["from_sound"]

_FLOATS = ("float16", "float32", "float64")


def from_sound(path: Path, signature: Signature) -> Dataset:
    """Pieces of a recording, one after the other, in [-1, 1); what is left at the end and fills no piece is left out.

    The whole recording is one sample where the length of the model's input varies. It is not resampled: a model says
    nothing of its sampling rate.

    Raises:
        InvalidInput: it is damaged, not PCM of 8 to 32 bits, not mono, or too short; or the model does not take sound.
    """
    spec = _input(signature)
    values = _read(path)
    length = spec.shape[-1] if isinstance(spec.shape[-1], int) else len(values)
    if not 0 < length <= len(values):
        raise InvalidInput(
            f"{path.name} holds {len(values)} values, the model takes {length} at once",
            hint="give a longer recording, at the sampling rate that the model was trained with",
        )
    count = len(values) // length

    def read() -> Iterator[Sample]:
        for i in range(count):
            piece = values[i * length : (i + 1) * length].astype(spec.dtype)
            yield {spec.name: piece.reshape((1,) * (len(spec.shape) - 1) + (length,))}

    return fitting(Dataset(path.name, read, count), signature)


def _input(signature: Signature) -> TensorSpec:
    """The one input, of floats in time, with nothing beside time but axes of one."""
    spec = signature.inputs[0]
    beside = [size for size in spec.shape[:-1] if isinstance(size, int) and size != 1]
    if len(signature.inputs) != 1 or not spec.shape or beside or spec.dtype not in _FLOATS:
        raise InvalidInput(
            f"the model takes {', '.join(map(str, signature.inputs))}, not one mono recording",
            hint="give arrays: .npz, .npy, a folder of .npy",
        )
    return spec


def _read(path: Path) -> Array:
    """(n,) float32."""
    try:
        with wave.open(str(path), "rb") as recording:
            channels, width = recording.getnchannels(), recording.getsampwidth()
            content = recording.readframes(recording.getnframes())
    except (OSError, EOFError, wave.Error, struct.error, RuntimeError) as error:
        raise InvalidInput(
            f"cannot read the recording {path.name}: {getattr(error, 'strerror', None) or error or 'it is cut off'}",
            hint="save it as PCM .wav of 8 to 32 bits",
        ) from error
    if not 1 <= width <= 4:
        raise InvalidInput(f"{path.name} has values of {8 * width} bits", hint="save it as PCM .wav of 8 to 32 bits")
    if channels != 1:
        raise InvalidInput(f"{path.name} has {channels} channels", hint="mix it down to mono")
    return _values(content[: len(content) // width * width], width)


def _values(content: bytes, width: int) -> Array:
    """Eight bits are unsigned; 24 are read as the upper ones of 32."""
    if width == 1:
        return (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        content, width = wide.tobytes(), 4
    return np.frombuffer(content, f"<i{width}").astype(np.float32) / float(2 ** (8 * width - 1))
