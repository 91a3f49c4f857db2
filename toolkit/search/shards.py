"""Arrays of many genomes in files of safetensors, mapped into memory and read when somebody looks at them.

The format is simple enough to be mapped by hand: eight bytes of length, a header of JSON with the place of every array,
then the arrays. The library of that name writes it, and would copy each array when reading.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ArchiveFormatError
from toolkit.search.genomes import Genome, genome_id, is_arrays

__all__ = ["MappedGenome", "Shard", "has_tensors", "write_shard", "write_shards"]

_SHARD_BYTES = 64 * 2**20
_SINGLE = "array"
"""The name of an array that is a genome by itself: no named one may have a colon in front."""

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
          "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "|b1"}  # fmt: skip


def has_tensors(genome: Genome) -> bool:
    """Whether it belongs into a shard, and not into a line of JSON."""
    return isinstance(genome, np.ndarray) or is_arrays(genome)


def write_shards(folder: Path, genomes: Iterable[tuple[str, Genome]]) -> Iterator[tuple[str, str]]:
    """Write `genomes` with their ids; (id, name of its file) of each, as it is written."""
    waiting: list[tuple[str, Genome]] = []
    size = number = 0
    for identity, genome in genomes:
        waiting.append((identity, genome))
        size += sum(array.nbytes for array in _named(genome).values())
        if size >= _SHARD_BYTES:
            yield from _flush(folder, number, waiting)
            waiting, size, number = [], 0, number + 1
    if waiting:
        yield from _flush(folder, number, waiting)


def _flush(folder: Path, number: int, waiting: list[tuple[str, Genome]]) -> Iterator[tuple[str, str]]:
    path = folder / f"genomes-{number:04d}.safetensors"
    write_shard(path, waiting)
    yield from ((identity, path.name) for identity, _ in waiting)


def write_shard(path: Path, genomes: Iterable[tuple[str, Genome]]) -> None:
    """One file of genomes with their ids."""
    from safetensors.numpy import save_file

    arrays = {f"{identity}:{name}": np.ascontiguousarray(array)
              for identity, genome in genomes for name, array in _named(genome).items()}  # fmt: skip
    save_file(arrays, path)


def _named(genome: Genome) -> Mapping[str, NDArray[Any]]:
    return {":" + _SINGLE: genome} if isinstance(genome, np.ndarray) else genome


class Shard:
    """One file, mapped.

    Raises:
        ArchiveFormatError: it is not there, or is no such file, or was cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            length = int.from_bytes(self._bytes[:8], "little")
            header = json.loads(self._bytes[8 : 8 + length])
            header.pop("__metadata__", None)
            self._begin = 8 + length
            self._places: dict[str, dict[str, tuple[Any, ...]]] = {}
            for key, entry in header.items():
                identity, _, name = key.partition(":")
                place = (_TYPES[entry["dtype"]], tuple(entry["shape"]), *entry["data_offsets"])
                self._places.setdefault(identity, {})[name] = place
            ends = [place[3] for places in self._places.values() for place in places.values()]
            if len(self._bytes) != self._begin + max(ends, default=0):
                raise ValueError("it was cut off")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveFormatError(
                f"{path.name} cannot be read: {error}", hint="take the archive from a copy"
            ) from error

    def genome(self, identity: str) -> Genome:
        """The genome of this id: an array, checked now; or named arrays, checked when they are looked at.

        Raises:
            ArchiveFormatError: it is not here.
        """
        places = self._places.get(identity)
        if places is None:
            raise ArchiveFormatError(
                f"{self.path.name} lacks the genome {identity}", hint="take the archive from a copy"
            )
        mapped = MappedGenome(self, identity)
        return mapped[":" + _SINGLE] if list(places) == [":" + _SINGLE] else mapped

    def names(self, identity: str) -> list[str]:
        """Of the arrays of one genome, sorted."""
        return sorted(self._places[identity])

    def nbytes(self, identity: str) -> int:
        """Of the arrays of one genome."""
        return sum(place[3] - place[2] for place in self._places[identity].values())

    def arrays(self, identity: str) -> dict[str, NDArray[Any]]:
        """Views of the file.

        Raises:
            ArchiveFormatError: a byte was changed: the id is a digest of what was written.
        """
        views = {name: self._view(*self._places[identity][name]) for name in self.names(identity)}
        genome = views[":" + _SINGLE] if list(views) == [":" + _SINGLE] else views
        if genome_id(genome) != identity:
            raise ArchiveFormatError(
                f"the genome {identity} in {self.path.name} was changed", hint="take the archive from a copy"
            )
        return views

    def _view(self, dtype: str, shape: tuple[int, ...], start: int, end: int) -> NDArray[Any]:
        flat = np.frombuffer(self._bytes, np.uint8, end - start, self._begin + start)
        return flat.view(dtype).reshape(shape) if flat.size else np.zeros(shape, dtype)


class MappedGenome(Mapping[str, NDArray[Any]]):
    """Named arrays in a file: no byte is read before one is asked for, none twice, and none can be written to."""

    def __init__(self, shard: Shard, identity: str) -> None:
        self._shard, self._identity = shard, identity
        self._arrays: dict[str, NDArray[Any]] | None = None

    def __getitem__(self, name: str) -> NDArray[Any]:
        if self._arrays is None:
            self._arrays = self._shard.arrays(self._identity)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard.names(self._identity))

    def __len__(self) -> int:
        return len(self._shard.names(self._identity))

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return self._shard.nbytes(self._identity)

    @property
    def identity(self) -> str:
        """The id: a digest of what was written."""
        return self._identity
