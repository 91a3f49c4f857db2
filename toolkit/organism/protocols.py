"""What the parts of an organism ask of each other. Nothing here imports a part: a stand-in takes twenty lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from toolkit.organism.records import ComponentRecord

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kernels.attention import AttentionOut
    from toolkit.organism.flow_state import FlowState

__all__ = [
    "ArchiveView",
    "Chemotaxis",
    "Component",
    "EliteView",
    "Fading",
    "Kernel",
    "KernelCaps",
    "Memory",
    "Metrics",
    "Organism",
    "Pseudopod",
]


@runtime_checkable
class Component(Protocol):
    """What a pool can manage and an archive can store."""

    component_id: str
    """Stable for life: 1 to 64 of a-z, 0-9 and -."""

    @property
    def fitness(self) -> float:
        """The last that was measured, on the host: asking never waits for a device."""

    @property
    def nbytes(self) -> int:
        """Of its parameters, and of what an optimizer keeps for them."""

    def reset(self) -> None:
        """Forget running statistics; weights stay."""

    def to_record(self) -> ComponentRecord:
        """A frozen copy."""

    @classmethod
    def from_record(cls, record: ComponentRecord, *, device: str = "cpu", dtype: Any = None) -> Self:
        """A component whose answers are those of the recorded one to the bit, where `dtype` is that one's."""


class KernelCaps(NamedTuple):
    """What a kernel takes. `dtypes` are names as "float32"."""

    dtypes: frozenset[str]
    max_head_dim: int
    device_type: str
    deterministic: bool


@runtime_checkable
class Kernel(Protocol):
    """The operators that components compute with."""

    @property
    def name(self) -> str: ...

    def caps(self) -> KernelCaps:
        """What it takes."""

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, key_padding: Tensor | None = None,
        scale: float | None = None, return_stats: bool = False,
    ) -> AttentionOut:  # fmt: skip
        """q (B, H, M, d), k (B, H, N, d), v (B, H, N, dv), key_padding (B, N) True = ignore; see kernels.attention."""

    def correlation(self, x: Tensor) -> Tensor:
        """Pearson, (T, D) to (D, D)."""

    def effective_rank(
        self, w: Tensor, *, kind: Literal["participation", "entropy", "stable"] = "participation"
    ) -> Tensor:
        """A scalar."""

    def workspace_bytes(self, op: str, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> int:
        """What a call of `op` on arguments of these shapes allocates."""


@runtime_checkable
class Memory(Protocol):
    """What happened, fading. It knows nothing of births and deaths."""

    def store(self, data: Tensor, weight: float = 1.0) -> None:
        """Add `data`; `weight` is positive."""

    def recall(self) -> Tensor | None:
        """What was stored, in the mean; None where nothing is left."""

    def tick(self, n: int = 1) -> None:
        """Let `n` steps pass."""

    def clear(self) -> None:
        """Forget all."""


class Counter(Protocol):
    """A sum that grows."""

    def inc(self, n: float = 1, **labels: str) -> None: ...


class Gauge(Protocol):
    """A value that is set."""

    def set(self, x: float, **labels: str) -> None: ...


class Metrics(Protocol):
    """Where an organism counts; `toolkit.observability` has one, and a test may have its own."""

    def counter(self, name: str, unit: str = "1") -> Counter: ...
    def gauge(self, name: str, unit: str) -> Gauge: ...


@runtime_checkable
class Pseudopod(Component, Protocol):
    """A component that attends."""

    def forward(self, latent: Tensor, stimulus: Tensor) -> Tensor:
        """(B, M, D) queries and (B, N, D) what they look at, to (B, M, D)."""

    @property
    def correlation(self) -> Tensor:
        """(dv, dv) of its outputs on the probe."""

    def effective_rank(self) -> Tensor:
        """Of what it can write."""

    def coherence(self) -> Tensor:
        """Mean absolute correlation of two of its outputs."""

    def behavior(self) -> NDArray[np.float64]:
        """(m,) raw measures, as last taken on the probe."""


class EliteView(Protocol):
    """What chemotaxis reads of an elite."""

    @property
    def id(self) -> str: ...
    @property
    def genome(self) -> Any: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...
    @property
    def unit(self) -> NDArray[np.float64]:
        """(m,) in the unit cube."""

    @property
    def quality(self) -> float: ...
    @property
    def curiosity(self) -> float: ...


@runtime_checkable
class ArchiveView(Protocol):
    """An archive that can be read and not be added to."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[EliteView]: ...
    def nearest(self, measures: NDArray[np.float64], k: int = 1) -> Sequence[EliteView]:
        """The `k` elites nearest to raw `measures`."""

    def bootstrap(
        self, measures: NDArray[np.float64], rng: np.random.Generator, *, sigma: float, k: int = 1
    ) -> dict[str, NDArray[Any]]:
        """Weights for raw `measures`, from the `k` nearest elites."""


@runtime_checkable
class Chemotaxis(Protocol):
    """Where parents are found."""

    def add_source(self, nutrient: Any, location: NDArray[np.float64], concentration: float) -> None: ...
    def sample(self, behavior: NDArray[np.float64], hunger: float, *path: int | str) -> Any | None: ...
    def clear(self) -> None: ...


@runtime_checkable
class Organism(Protocol):
    """Components that answer together."""

    def forward(self, stimulus: Tensor, state: FlowState | None = None) -> tuple[Tensor, FlowState]: ...
    def reset_state(self) -> None: ...
    def stats(self) -> Mapping[str, Any]: ...


@runtime_checkable
class Fading(Component, Protocol):
    """A component that can leave unnoticed."""

    def begin_fade(self, steps: int) -> None:
        """Answer less and less from now on."""

    def advance_fade(self) -> bool:
        """One step; whether it answers nothing now."""
