"""Image files, decoded with Pillow: upright, in 8 bits, gray or RGB."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from targets.errors import InvalidInput, MissingDependency, ToolkitError
from toolkit.data.preprocessing import MOST_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIXES", "decode", "pillow_version"]

_FORMATS = {
    "BMP": (".bmp",), "GIF": (".gif",), "JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "PPM": (".pgm", ".ppm"),
    "TIFF": (".tif", ".tiff"), "WEBP": (".webp",),
}  # fmt: skip
SUFFIXES = frozenset(suffix for suffixes in _FORMATS.values() for suffix in suffixes)


def pillow_version() -> str:
    """The version of Pillow, which decides how an image is decoded and resized.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import PIL
    except ImportError as error:
        raise MissingDependency(
            "images are read with Pillow, which is not installed", hint="pip install 'edge-toolkit[images]'"
        ) from error
    return PIL.__version__


def decode(file: Path, name: str, *, gray: bool) -> Image:
    """An image in mode L or RGB, turned as its EXIF orientation says; transparency is dropped, as torchvision does.

    Of a file with several frames the first one counts; 16-bit gray is scaled to 8 bits.

    Args:
        name: What messages call the file.

    Raises:
        InvalidInput: it is damaged, of another format, or too large.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, which are refused here, and of bad metadata
            with Image.open(file, formats=tuple(_FORMATS)) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise InvalidInput(
                        f"{name} has {image.width}x{image.height} pixels, more than {MOST_PIXELS // 10**6} million",
                        hint="make it smaller, or remove it",
                    )
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _eight_bits(image, name).convert("L" if gray else "RGB")
    except ToolkitError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever they come across
        reason = " ".join(str(error).replace(str(file), name).split())[:200] or type(error).__name__
        raise InvalidInput(
            f"cannot read the image {name}: {reason}", hint="save it again as PNG or JPEG, or remove it"
        ) from error


def _eight_bits(image: Image, name: str) -> Image:
    """Pillow clips 16-bit gray at 255 when it converts; it calls it 32-bit in formats that have no more than 16."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InvalidInput(
            f"{name} has 32-bit pixels, whose range is not known", hint="save it in 8 or 16 bits, or as .npy"
        )
    return image
