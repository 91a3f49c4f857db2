"""An archive through glass: an organism reads it, and adds nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.organism.protocols import EliteView

__all__ = ["ReadOnlyArchive"]

Floats = NDArray[np.float64]


class _Archive(Protocol):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def nearest(self, measures: Floats, k: int = 1) -> Sequence[Any]: ...


class ReadOnlyArchive:
    """What of an archive may be read.

    Args:
        archive: A CVTArchive, or what has its `nearest`.
        bootstrap: `toolkit.search.bootstrap.bootstrap`, which mixes the weights of elites.
    """

    def __init__(self, archive: _Archive, bootstrap: Callable[..., dict[str, NDArray[Any]]]) -> None:
        self.__archive, self.__bootstrap = archive, bootstrap

    def __len__(self) -> int:
        return len(self.__archive)

    def __iter__(self) -> Iterator[EliteView]:
        return iter(self.__archive)

    def nearest(self, measures: Floats, k: int = 1) -> Sequence[EliteView]:
        """The `k` elites nearest to raw `measures` (m,)."""
        return self.__archive.nearest(measures, k)

    def bootstrap(
        self, measures: Floats, rng: np.random.Generator, *, sigma: float, k: int = 1
    ) -> dict[str, NDArray[Any]]:
        """Weights for raw `measures`, from the `k` nearest elites, with relative noise `sigma`."""
        return self.__bootstrap(self.__archive, measures, rng, sigma=sigma, k=k)
