"""Samples in a .npy or .npz file, which is opened once for each walk over the data and read row by row."""

from __future__ import annotations

import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from passes.dataset import Array, Dataset, Sample
from passes.signature import Signature
from targets.errors import InvalidInput
from toolkit.data.arrays import common_length
from toolkit.data.fitting import fitting
from toolkit.data.labels import LABELS, check_labels, split_labels
from toolkit.data.rows import Header, read_header, read_rows

__all__ = ["first_rows", "from_file", "readable"]

_ALONE = "arr_0"
_DAMAGE = (
    OSError, ValueError, EOFError, MemoryError, OverflowError, SyntaxError, RuntimeError, TypeError, struct.error,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What zipfile, its decompressors and numpy's reader raise on a damaged file; a locked archive is a RuntimeError."""


def from_file(path: Path, signature: Signature) -> Dataset:
    """Samples along the first axis of the arrays in a .npz, or of the one in a .npy.

    Raises:
        InvalidInput: it is damaged, holds other than numbers, or arrays of different length.
    """
    with _arrays(path) as arrays:
        named, labels = split_labels(arrays, signature)
        shapes = {name: header.shape for name, (_, header) in named.items()}
        classes = None if labels is None else _labels(path.name, *labels)
    size = common_length(path.name, shapes, classes, signature)

    def read() -> Iterator[Sample]:
        with _arrays(path) as arrays:
            columns = [read_rows(*arrays[name]) for name in shapes]
            for row in zip(*columns, strict=True):
                yield dict(zip(shapes, row, strict=True))

    return fitting(Dataset(path.name, read, size, classes), signature)


def first_rows(path: Path) -> Array | dict[str, Array] | None:
    """The first sample of a file with a batch axis of 1: an array of a .npy, by name of a .npz; None of an empty one.

    Raises:
        InvalidInput: the file is damaged.
    """
    with _arrays(path) as arrays:
        named = {name: value for name, value in arrays.items() if name != LABELS}
        if not named or any(not header.shape or not header.shape[0] for _, header in named.values()):
            return None
        rows = {name: next(read_rows(*value))[None] for name, value in named.items()}
    return rows[_ALONE] if path.suffix == ".npy" else rows


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Damage of a file named `what` becomes an InvalidInput."""
    try:
        yield
    except _DAMAGE as error:
        said = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        reason = said or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)
        remedy = "check the path" if isinstance(error, FileNotFoundError) else "save it again with numpy.save or savez"
        raise InvalidInput(
            f"cannot read {what}: {reason[:200]}",
            hint=f"{remedy}; data is .npz, .npy, a folder of .npy or of images, or module:factory",
        ) from error


@contextmanager
def _arrays(path: Path) -> Iterator[dict[str, tuple[IO[bytes], Header]]]:
    """Each array of a file: a stream that stands at its first value, and its header."""
    with readable(f"data {path}"), ExitStack() as stack:
        file: Any = stack.enter_context(open(path, "rb"))
        if file.read(2) != b"PK":
            file.seek(0)
            yield {_ALONE: (file, read_header(file, os.fstat(file.fileno()).st_size))}
            return
        archive = stack.enter_context(zipfile.ZipFile(file))
        found = {}
        for entry in archive.infolist():
            member = stack.enter_context(archive.open(entry))
            with readable(f"data {path}, {entry.filename}"):
                found[entry.filename.removesuffix(".npy")] = (member, read_header(member, entry.file_size))
        yield found


def _labels(name: str, stream: IO[bytes], header: Header) -> Array:
    if not header.shape:
        return check_labels(name, np.empty((), header.dtype))
    return check_labels(name, np.array([*read_rows(stream, header)], header.dtype).reshape(header.shape))
