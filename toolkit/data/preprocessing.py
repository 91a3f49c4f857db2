"""How an image becomes a model's input: stated by the user, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.dataset import Array
from targets.errors import InvalidInput, UnknownName, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from toolkit.data.frame import Frame

__all__ = ["EXAMPLE", "MOST_PIXELS", "PRESETS", "Preprocessing"]

EXAMPLE = "--preprocess imagenet, or for instance --preprocess resize=256,crop=center,mean=127,std=128"
MOST_PIXELS = 64_000_000
"""Of an image, as stored or resized: 200 MB in RGB. Larger ones are decompression bombs or mistakes."""

_CHOICES = {
    "crop": ("none", "center"),
    "color": ("auto", "rgb", "bgr", "gray"),
    "filter": ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"),
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, then (pixel - mean) / std, with pixels from 0 to 255. Size and layout are the model's.

    Args:
        resize: "none"; "stretch" to the model's size, whatever that does to the aspect; a number of pixels for the
            shorter side; or a fraction of the model's size, which the image then just covers (256/224 is that of
            ImageNet evaluation).
        crop: "center" cuts the model's size out of the middle; "none".
        color: "rgb", "bgr", "gray" (ITU-R 601 luma), or "auto": rgb for three channels, gray for one.
        filter: Of resizing; Pillow's names. All but nearest are antialiased.
        size: (height, width) where the model's own may vary.
        mean, std: In units of 0 to 255: one number, or three for red, green and blue whatever `color` says.
    """

    resize: str | int | Fraction = "none"
    crop: str = "none"
    color: str = "auto"
    filter: str = "bilinear"
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UnknownName(f"{name} of a preprocessing", str(getattr(self, name)), known)
        if isinstance(self.resize, str) and self.resize not in ("none", "stretch"):
            raise UnknownName("resize of a preprocessing", self.resize, ("none", "stretch", "256", "256/224"))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3) or not all(map(isfinite, values)):
                raise UsageError(f"{name} is one number or three, got {_written(values)}", hint=f"{name}=127")
        if min(self.std) < 1:
            raise UsageError(
                f"std={_written(self.std)} is too small: mean and std are in units of 0 to 255",
                hint="multiply numbers that are meant for pixels from 0 to 1 by 255",
            )
        lengths = [*(self.size or ()), *([] if isinstance(self.resize, str) else [self.resize])]
        if any(length <= 0 for length in lengths):
            raise UsageError("sizes of a preprocessing must be positive", hint="resize=256")

    @classmethod
    def parse(cls, text: str) -> Preprocessing:
        """Read a preset, settings, or a preset and settings that change it, with commas between.

        `imagenet`, `raw,resize=stretch`, `resize=256,crop=center,mean=127,std=128`, `imagenet,filter=bicubic`;
        `size=224` or `size=240x320` (height x width); `mean=124/116/104`.

        Raises:
            UsageError: it does not read like that.
        """
        base, stated = cls(), {}
        for position, part in enumerate(text.split(",")):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals and position == 0:
                if key not in PRESETS:
                    raise UnknownName("preprocessing", key, PRESETS)
                base = PRESETS[key]
            elif key not in _READ or not equals:
                raise UnknownName("setting of a preprocessing", key, _READ)
            elif key in stated:
                raise UsageError(f"{key} is set twice in {text!r}", hint="leave one of them out")
            else:
                stated[key] = _value(key, value)
        return replace(base, **stated)

    def __str__(self) -> str:
        """The settings that `parse` reads; mean and std always, others where they are not the default."""
        default = Preprocessing()
        return ",".join(
            f"{f.name}={_written(getattr(self, f.name))}"
            for f in fields(self)
            if f.name in ("mean", "std") or getattr(self, f.name) != getattr(default, f.name)
        )

    def __call__(self, image: Image, frame: Frame) -> Array:
        """`image` as the model takes it, without a batch axis: (C, H, W) or (H, W, C) in the model's type.

        Raises:
            InvalidInput: its size is not the model's in the end.
        """
        return self.values(self.pixels(image, frame), frame)

    def pixels(self, image: Image, frame: Frame) -> Array:
        """`image`, in mode L or RGB, resized and cropped: uint8 (H, W, C)."""
        from PIL.Image import Resampling

        size = self._resized(image.height, image.width, frame)
        if size[0] * size[1] > MOST_PIXELS:
            raise InvalidInput(
                f"{image.width}x{image.height} would be resized to {size[1]}x{size[0]}", hint="crop it to a usual shape"
            )
        if size != (image.height, image.width):
            image = image.resize(size[::-1], Resampling[self.filter.upper()])
        array = _cut(np.asarray(image), frame) if self.crop == "center" else np.asarray(image)
        if array.shape[:2] != (frame.height, frame.width):
            raise InvalidInput(
                f"it is {array.shape[1]}x{array.shape[0]} in the end, the model takes {frame.width}x{frame.height}",
                hint="add resize=256/224,crop=center to --preprocess, or resize=stretch",
            )
        return array.reshape(frame.height, frame.width, frame.channels)

    def values(self, pixels: Array, frame: Frame) -> Array:
        """Pixels (H, W, C) normalized, in the model's order of channels and axes."""
        scaled = (pixels.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.color == "bgr":
            scaled = scaled[..., ::-1]
        if not frame.channels_last:
            scaled = scaled.transpose(2, 0, 1)
        return np.ascontiguousarray(scaled, frame.dtype)

    def _resized(self, height: int, width: int, frame: Frame) -> tuple[int, int]:
        """(height, width) after resizing; rounded as torchvision's Resize rounds."""
        if self.resize == "none":
            return height, width
        if self.resize == "stretch":
            return frame.height, frame.width
        if isinstance(self.resize, int):
            tall, wide = self.resize, self.resize
        else:
            ratio = Fraction(self.resize)
            tall, wide = max(1, round(frame.height * ratio)), max(1, round(frame.width * ratio))
        if tall * width >= wide * height:  # the height decides
            return tall, max(1, tall * width // height)
        return max(1, wide * height // width), wide


def _cut(array: Array, frame: Frame) -> Array:
    """The middle of an image, which is as large as the frame or larger, at the place where torchvision cuts."""
    top, left = (round((have - want) / 2) for have, want in zip(array.shape, (frame.height, frame.width), strict=False))
    if top < 0 or left < 0:
        return array
    return array[top : top + frame.height, left : left + frame.width]


# ---- settings as text


def _resize(text: str) -> str | int | Fraction:
    if "/" in text:
        return Fraction(text)
    return int(text) if text.isdigit() else text


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    return int(height), int(width if cross else height)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split("/"))


_READ: Mapping[str, Callable[[str], Any]] = {
    "resize": _resize, "crop": str, "color": str, "filter": str, "size": _size, "mean": _numbers, "std": _numbers,
}  # fmt: skip


def _value(key: str, text: str) -> Any:
    try:
        return _READ[key](text)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{key}={text} of a preprocessing cannot be read: {error}", hint=EXAMPLE) from error


def _written(value: Any) -> str:
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if not isinstance(value, tuple):
        return str(value)
    if value and isinstance(value[0], int):
        return "x".join(map(str, value))
    return "/".join(repr(number).removesuffix(".0") for number in value)


PRESETS: Mapping[str, Preprocessing] = {
    # Shorter side to 256 for an input of 224, centre crop, and the mean and deviation of ImageNet's training pixels,
    # 0.485/0.456/0.406 and 0.229/0.224/0.225 of 255. Source: torchvision, references/classification/presets.py.
    "imagenet": Preprocessing(
        Fraction(256, 224), "center", "rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    ),
    "unit": Preprocessing(std=(255.0,)),
    "signed": Preprocessing(mean=(127.5,), std=(127.5,)),
    "raw": Preprocessing(),
}
"""What a name stands for. Only `imagenet` resizes and crops; with the others images must have the size already, or
it is said what becomes of those that have not."""
