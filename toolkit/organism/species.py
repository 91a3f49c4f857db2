"""Sizes that components of one kind share, and how the first and the next of them are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.errors import DescriptorError
from toolkit.organism.errors import ShapeError
from toolkit.organism.pool import Pool
from toolkit.organism.protocols import Kernel
from toolkit.organism.pseudopod import Pseudopod, Stage, count_parameters
from toolkit.organism.records import ComponentRecord
from toolkit.rng import numpy_generator

__all__ = ["Species", "founders", "newborn"]


@dataclass(frozen=True)
class Species:
    """Sizes of a component; see Pseudopod."""

    head_dim: int
    n_heads: int = 1
    rank: int | None = None
    bias: bool = False

    @classmethod
    def of(cls, pod: Pseudopod) -> Species:
        """Of a component that lives."""
        return cls(pod.head_dim, pod.n_heads, pod.rank, pod.bias)

    def nbytes(self, d_model: int, dtype: torch.dtype) -> int:
        """Of the parameters of one."""
        return count_parameters(d_model, self.n_heads * self.head_dim, self.rank, bias=self.bias) * dtype.itemsize


def founders(pool: Pool[Pseudopod], d_model: int, species: Species, count: int) -> None:
    """Put `count` settled components into an empty pool."""
    for _ in range(count):
        pool.add(Pseudopod(d_model, component_id=pool.next_id(), seed=pool.root_seed, **asdict(species)), step=0)


def newborn(
    component_id: str, d_model: int, species: Species, parent: ComponentRecord | None, *, sigma: float, seed: int,
    kernel: Kernel, device: torch.device, dtype: torch.dtype,
) -> Pseudopod:  # fmt: skip
    """A component with gate 0: fresh, or with the weights of `parent` and noise of `sigma` beside them.

    Raises:
        ShapeError: the parent is of another width.
        DescriptorError: `sigma` is negative or not finite.
    """
    if not 0 <= sigma < np.inf:
        raise DescriptorError(f"noise of {sigma}", hint="sigma is 0 or more, and finite")
    if parent is None:
        return Pseudopod(d_model, component_id=component_id, gate_init=0.0, seed=seed, kernel=kernel, device=device,
                         dtype=dtype, **asdict(species))  # fmt: skip
    if parent.header.get("d_model") != d_model:
        raise ShapeError(
            f"a parent of width {parent.header.get('d_model')} in an organism of {d_model}",
            hint="give parents from an archive of organisms of this width",
        )
    fresh = {"component_id": component_id, "stage": str(Stage.NEWBORN), "fade_step": 0, "fade_steps": 0, "fitness": 0.0}
    rng = numpy_generator(seed, "mutation", component_id)
    tensors = {name: _noisy(parent.tensors[name], sigma, rng) for name in sorted(parent.tensors) if name != "fade_from"}
    tensors["gate"] = np.zeros_like(tensors["gate"])
    born = ComponentRecord(parent.kind, parent.schema_version, {**parent.header, **fresh}, tensors)
    return Pseudopod.from_record(born, device=device, dtype=dtype, kernel=kernel)


def _noisy(array: NDArray[Any], sigma: float, rng: np.random.Generator) -> NDArray[Any]:
    """`array` and noise of standard deviation sigma x norm / sqrt(elements)."""
    if not sigma:
        return array
    scale = sigma * np.linalg.norm(array.astype(np.float64)) / np.sqrt(array.size)  # squares overflow in float16
    noisy: NDArray[Any] = (array + scale * rng.standard_normal(array.shape)).astype(array.dtype)
    return noisy
