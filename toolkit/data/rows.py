"""One array in numpy's file format, read row by row from a stream: no more than a row is held."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from passes.dataset import Array

__all__ = ["Header", "read_header", "read_rows"]

_BLOCK_BYTES = 16 * 2**20
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True)
class Header:
    """What stands before the values. `fortran`: the first axis varies fastest."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * prod(self.shape[1:])


def read_header(stream: IO[bytes], size_bytes: int) -> Header:
    """The header of an array in a stream of this size, which then stands at the first value.

    Raises:
        EOFError: the values that the header promises are not there.
        ValueError: it is not numpy's format, or holds something other than numbers, Python objects above all.
    """
    version = npy.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"version {version} of numpy's format holds no plain array")
    shape, fortran, dtype = _READERS[version](stream)
    if dtype.kind not in "biufc":
        held = "Python objects, which are never unpickled" if dtype.hasobject else f"{dtype}"
        raise ValueError(f"it holds {held}, not numbers")
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape is {list(shape)}")
    header = Header(shape, dtype, fortran)
    if shape and stream.tell() + shape[0] * header.row_bytes > size_bytes:
        raise EOFError("it ends before its last sample")
    return header


def read_rows(stream: IO[bytes], header: Header) -> Iterator[Array]:
    """Each element along the first axis, in this order, as an array of its own.

    Where the first axis varies fastest, a row is spread over the whole array: that is then mapped, from a temporary
    file if it comes out of an archive.

    Raises:
        EOFError: the values end early.
        OSError, ValueError: the stream is damaged.
    """
    if header.fortran and len(header.shape) > 1 and 0 not in header.shape:
        yield from _spread_rows(stream, header)
        return
    for _ in range(header.shape[0]):
        values = stream.read(header.row_bytes)
        if len(values) != header.row_bytes:
            raise EOFError("it ends before its last sample")
        yield np.ndarray(header.shape[1:], header.dtype, bytearray(values))


def _spread_rows(stream: IO[bytes], header: Header) -> Iterator[Array]:
    with tempfile.TemporaryFile() as scratch:
        start = stream.tell()
        if not isinstance(stream, io.BufferedReader):
            shutil.copyfileobj(stream, scratch)
            stream, start = scratch, 0
        mapped = np.memmap(stream, header.dtype, "r", start, header.shape, order="F")
        step = max(1, _BLOCK_BYTES // header.row_bytes)
        for first in range(0, header.shape[0], step):
            block = np.array(mapped[first : first + step], order="C", subok=False)
            for row in block:
                yield row.copy()
