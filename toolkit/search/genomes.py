"""What an archive stores: a configuration, an array or named arrays; frozen copies, with a size and a digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from toolkit.digests import canonical_digest
from toolkit.errors import DescriptorError

__all__ = ["Genome", "Kept", "arrays_of", "frozen", "genome_bytes", "genome_id", "is_arrays"]

Genome: TypeAlias = NDArray[Any] | Mapping[str, Any]
"""One array; named arrays, such as a component's weights; or a configuration that JSON holds."""


@runtime_checkable
class Kept(Protocol):
    """Named arrays that lie somewhere else and cannot be changed: not to be read for their size or their id."""

    @property
    def nbytes(self) -> int:
        """Of all arrays."""

    @property
    def identity(self) -> str:
        """What `genome_id` would say."""


def frozen(genome: Genome) -> Genome:
    """A copy that nobody can change; itself where nobody can.

    Raises:
        DescriptorError: it is none of the three.
    """
    if isinstance(genome, np.ndarray):
        return _fixed(genome)
    if isinstance(genome, Kept):
        return genome
    if not isinstance(genome, Mapping):
        raise DescriptorError(
            f"a genome is an array, named arrays or a configuration, not {type(genome).__name__}", hint="give a mapping"
        )
    if is_arrays(genome):
        return MappingProxyType({name: _fixed(genome[name]) for name in sorted(genome)})
    try:
        return MappingProxyType(json.loads(json.dumps(dict(genome), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise DescriptorError(f"a configuration that is not JSON: {error}", hint="keep arrays apart") from error


def _fixed(array: NDArray[Any]) -> NDArray[Any]:
    if not array.flags.writeable and array.flags.c_contiguous and _owner_is_fixed(array):
        return array  # frozen before, or mapped from a file: one copy is enough
    copy = array.copy(order="C")
    copy.flags.writeable = False
    return copy


def _owner_is_fixed(array: NDArray[Any]) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return base is None or memoryview(base).readonly


def is_arrays(genome: Genome) -> bool:
    """Whether it is named arrays."""
    if isinstance(genome, Kept) and not isinstance(genome, np.ndarray):
        return True
    return isinstance(genome, Mapping) and bool(genome) and all(isinstance(v, np.ndarray) for v in genome.values())


def arrays_of(genome: Genome) -> dict[str, NDArray[Any]]:
    """The arrays of a genome that consists of them.

    Raises:
        DescriptorError: it is a configuration.
    """
    if isinstance(genome, np.ndarray):
        return {"": genome}
    if not is_arrays(genome):
        raise DescriptorError("this genome is a configuration, it has no arrays", hint="mutate its choices instead")
    return dict(genome)


def genome_bytes(genome: Genome) -> int:
    """Bytes of its arrays, or of its configuration as JSON."""
    if isinstance(genome, np.ndarray | Kept):
        return genome.nbytes
    if is_arrays(genome):
        return sum(array.nbytes for array in genome.values())
    return len(json.dumps(dict(genome)))


def genome_id(genome: Genome) -> str:
    """A digest that equal genomes share."""
    if isinstance(genome, Kept):
        return genome.identity
    return canonical_digest(dict(genome) if isinstance(genome, Mapping) else genome)
