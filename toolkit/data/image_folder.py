"""A folder of images, with a subfolder for each class or none; decoded one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.signature import Signature
from targets.errors import InvalidInput
from toolkit.data.array_folder import with_labels_file
from toolkit.data.decoding import SUFFIXES, decode, pillow_version
from toolkit.data.fitting import fitting
from toolkit.data.frame import Frame, frame_of
from toolkit.data.labels import class_numbers
from toolkit.data.listing import files_in, folders_in
from toolkit.data.preprocessing import EXAMPLE, Preprocessing

__all__ = ["SUFFIXES", "from_images"]

_FORMAT = 1
"""Part of every identity; to be raised with a change of this code that changes what an image becomes."""
_KEPT_BYTES = 64 * 2**20
"""Of cropped 8-bit pixels: the first 445 images of 224x224 are decoded once, though every pass walks over them."""


@dataclass(frozen=True)
class _Images:
    """Files in order, what messages call them, and their classes where there are any."""

    files: Sequence[Path]
    names: Sequence[str]
    classes: Array | None


def from_images(path: Path, signature: Signature, preprocess: str | None) -> Dataset:
    """The images in a folder, or the one in a file.

    A class is the integer that its folder is named after where all are, else the folder's place when sorted. Images of
    all classes take turns, so that the first n are a fair sample. Without subfolders there are no classes, but for
    those in a labels.npy, in the order of the files' names.

    Raises:
        InvalidInput: no preprocessing is stated, it does not suit the model, or there are no images; while reading: an
            image is damaged, or has not the model's size in the end.
        MissingDependency: Pillow is not installed.
    """
    if not preprocess:
        raise InvalidInput(
            f"{path} holds images, and nothing says how they become inputs",
            hint=f"state it as the model was trained: {EXAMPLE}",
        )
    version = pillow_version()
    preparing = Preprocessing.parse(preprocess)
    frame = frame_of(signature, preparing)
    images = _listed(path)
    data = Dataset(
        name=path.name,
        read=_reader(images, preparing, frame),
        size=len(images.files),
        labels=images.classes,
        identity=lambda count: _identity(images, count, f"{_FORMAT}|{preparing}|{frame}|Pillow {version}"),
        preprocessing=str(preparing),
    )
    data = fitting(data, signature, lambda index: images.names[index])
    return with_labels_file(data, path) if images.classes is None else data


def _listed(path: Path) -> _Images:
    if path.is_file():
        return _Images([path], [path.name], None)
    loose, folders = files_in(path, SUFFIXES), folders_in(path)
    if not folders:
        return _Images(loose, [file.name for file in loose], None)
    found = [(number, files_in(folder, SUFFIXES)) for number, folder in zip(_classes(folders), folders, strict=True)]
    if loose:
        raise InvalidInput(
            f"{path} holds images beside its folders, {loose[0].name} for one, so their class is not clear",
            hint="move them into the folder of their class, or the folders elsewhere",
        )
    turns = sorted((turn, place) for place, (_, files) in enumerate(found) for turn in range(len(files)))
    files = [found[place][1][turn] for turn, place in turns]
    numbers = np.array([found[place][0] for _, place in turns], np.int64)
    return _Images(files, [f"{file.parent.name}/{file.name}" for file in files], numbers)


def _classes(folders: Sequence[Path]) -> list[int]:
    return class_numbers([folder.name for folder in folders])


def _reader(images: _Images, preparing: Preprocessing, frame: Frame) -> Callable[[], Iterator[Sample]]:
    kept: list[Array] = []

    def pixels(index: int) -> Array:
        name = images.names[index]
        try:
            return preparing.pixels(decode(images.files[index], name, gray=frame.channels == 1), frame)
        except InvalidInput as error:
            if name in error.problem:
                raise
            raise InvalidInput(f"the image {name}: {error.problem}", hint=error.hint) from error

    def read() -> Iterator[Sample]:
        for index in range(len(images.files)):
            array = kept[index] if index < len(kept) else pixels(index)
            if index == len(kept) and (index + 1) * array.nbytes <= _KEPT_BYTES:
                kept.append(array)
            yield {"image": preparing.values(array, frame)}

    return read


def _identity(images: _Images, count: int, how: str) -> str:
    """SHA-256 over how images are read, and over name and content of the first `count` files."""
    state = hashlib.sha256(how.encode())
    for file, name in zip(images.files[:count], images.names, strict=False):
        try:
            with open(file, "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise InvalidInput(f"cannot read the image {name}: {error.strerror}", hint="check the file") from error
        state.update(f"|{name}|{content}".encode("utf-8", "surrogateescape"))
    return state.hexdigest()
