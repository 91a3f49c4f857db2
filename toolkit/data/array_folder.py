"""A folder of .npy files, one sample a file; for several inputs a subfolder each, with files paired by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.signature import Signature
from targets.errors import InvalidInput
from toolkit.data.files import readable
from toolkit.data.fitting import fitting
from toolkit.data.labels import with_labels
from toolkit.data.listing import LABELS_FILE, files_in, folders_in

__all__ = ["from_array_folder", "with_labels_file"]


def from_array_folder(path: Path, signature: Signature) -> Dataset:
    """Samples in the order of their files' names; `labels.npy` beside them holds their classes in that order.

    Raises:
        InvalidInput: files are missing for an input, or a file is damaged or does not fit.
    """
    columns = _columns(path, signature)
    names = [file.name for file in next(iter(columns.values()))]

    def read() -> Iterator[Sample]:
        for row in zip(*columns.values(), strict=True):
            yield {name: _read(path, file) for name, file in zip(columns, row, strict=True)}

    data = Dataset(path.name, read, len(names))
    return with_labels_file(fitting(data, signature, lambda index: names[index]), path)


def with_labels_file(data: Dataset, path: Path) -> Dataset:
    """`data` with the classes in the folder's labels.npy, where there is one."""
    file = path / LABELS_FILE
    return with_labels(data, _read(path, file)) if file.is_file() else data


def _columns(path: Path, signature: Signature) -> dict[str, list[Path]]:
    """The files of each input."""
    names = [spec.name for spec in signature.inputs]
    if loose := files_in(path, {".npy"}):
        if len(names) > 1:
            raise InvalidInput(
                f"{path} holds one input, the model takes {', '.join(names)}",
                hint="make a subfolder for each input, with files of the same names",
            )
        if folders := [folder for folder in folders_in(path) if files_in(folder, {".npy"})]:
            raise InvalidInput(f"{path} holds arrays both loose and in {folders[0].name}", hint="keep one of the two")
        return {names[0]: loose}
    columns = {name: files_in(path / name, {".npy"}) if (path / name).is_dir() else [] for name in names}
    if missing := sorted(name for name, files in columns.items() if not files):
        raise InvalidInput(
            f"{path} holds no .npy files for {', '.join(missing)}", hint=f"make the subfolders {', '.join(names)}"
        )
    _check_pairs(columns)
    return columns


def _check_pairs(columns: dict[str, list[Path]]) -> None:
    found = {name: {file.name for file in files} for name, files in columns.items()}
    everything = set.union(*found.values())
    for name, files in found.items():
        if lacking := sorted(everything - files):
            raise InvalidInput(
                f"{name} has no file {lacking[0]}, another input has",
                hint="give every input a file of the same name for each sample",
            )


def _read(folder: Path, file: Path) -> Array:
    with readable(str(file.relative_to(folder))), open(file, "rb") as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        return array
