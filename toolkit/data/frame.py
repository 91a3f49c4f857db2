"""How a model takes an image: read off its input, and held against the preprocessing before any image is opened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput
from toolkit.data.preprocessing import EXAMPLE, Preprocessing

__all__ = ["Frame", "frame_of"]

_FLOATS = ("float16", "float32", "float64")
_INTEGERS = ("uint8", "int8", "uint16", "int16", "int32", "int64")


@dataclass(frozen=True)
class Frame:
    """Size, channels, order of axes and numpy's name of the element type."""

    height: int
    width: int
    channels: int
    channels_last: bool
    dtype: str


def frame_of(signature: Signature, preprocessing: Preprocessing) -> Frame:
    """The frame of a model that takes one image.

    Raises:
        InvalidInput: it does not take one image, its size is not known, or the preprocessing does not suit it.
    """
    spec = signature.inputs[0]
    if len(signature.inputs) != 1 or len(spec.shape) != 4:
        raise InvalidInput(
            f"the model takes {', '.join(map(str, signature.inputs))}, not one image",
            hint="give arrays: .npz, a folder of .npy, or module:factory",
        )
    last = _channels_last(spec)
    height, width = spec.shape[1:3] if last else spec.shape[2:4]
    channels = spec.shape[3] if last else spec.shape[1]
    stated = preprocessing.size or (height, width)
    if any(isinstance(have, int) and have != want for have, want in zip((height, width), stated, strict=True)):
        raise InvalidInput(
            f"size={stated[0]}x{stated[1]} is not that of the model's input {spec}", hint="leave size out"
        )
    if not isinstance(stated[0], int) or not isinstance(stated[1], int):
        raise InvalidInput(f"the size of the model's input {spec} varies", hint="add size=224 to --preprocess")
    assert isinstance(channels, int)
    _check_colors(preprocessing, channels, spec)
    _check_type(preprocessing, spec)
    return Frame(stated[0], stated[1], channels, last, spec.dtype)


def _channels_last(spec: TensorSpec) -> bool:
    """An image has one channel or three; channels stand first where both readings fit."""
    if spec.shape[1] in (1, 3):
        return False
    if spec.shape[3] in (1, 3):
        return True
    raise InvalidInput(
        f"the model's input {spec} has neither one nor three channels",
        hint="give arrays, or say the shape: --input 1x3x224x224",
    )


def _check_colors(preprocessing: Preprocessing, channels: int, spec: TensorSpec) -> None:
    given = {"auto": channels, "gray": 1}.get(preprocessing.color, 3)
    if given != channels or max(len(preprocessing.mean), len(preprocessing.std)) > channels:
        raise InvalidInput(
            f"{preprocessing} gives {3 if channels == 1 else 1} channels, the model's input is {spec}",
            hint="set color, mean and std for the channels that the model has",
        )


def _check_type(preprocessing: Preprocessing, spec: TensorSpec) -> None:
    """An integer input takes whole numbers in its range, or the image would be rounded away."""
    if spec.dtype in _FLOATS:
        return
    if spec.dtype in _INTEGERS:
        known = np.iinfo(spec.dtype)
        whole = all(mean == round(mean) for mean in preprocessing.mean) and set(preprocessing.std) == {1.0}
        if whole and known.min <= -max(preprocessing.mean) and 255 - min(preprocessing.mean) <= known.max:
            return
    raise InvalidInput(
        f"{preprocessing} does not give the {spec.dtype} of the model's input {spec}",
        hint="raw gives 0 to 255, mean=128,std=1 gives -128 to 127; " + EXAMPLE,
    )
