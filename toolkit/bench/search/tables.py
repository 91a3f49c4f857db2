"""What every deployment of a network is worth, found out once: accuracy, and latency on each target.

A table has a row for each combination of the genes' values, the last gene's changing fastest. So a comparison of
searches looks up what it would otherwise take hours to evaluate again, and no search sees another's luck.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROWS", "Table", "load", "names", "save"]

ROWS = Path(__file__).parent / "rows"


@dataclass(frozen=True)
class Table:
    """All deployments of one network.

    Args:
        genes: Values by gene; those of a precision are "float" and "int8".
        right: (rows,) samples answered right.
        samples: That were asked.
        weight_bytes: (rows,) as stored.
        latency_s: (rows,) by target, as the cost model has it; NaN where the target does not run the row.
        provenance: What it was made from and with.
    """

    name: str
    genes: Mapping[str, tuple[int | float | str, ...]]
    right: NDArray[np.uint16]
    samples: int
    weight_bytes: NDArray[np.int32]
    latency_s: Mapping[str, NDArray[np.float32]]
    provenance: Mapping[str, str]

    def __len__(self) -> int:
        return prod(self.sizes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Values of each gene."""
        return tuple(len(values) for values in self.genes.values())


def names() -> list[str]:
    """Networks that have a table."""
    return sorted(path.stem for path in ROWS.glob("*.json"))


def load(name: str, folder: Path = ROWS) -> Table:
    """The table of a network."""
    from safetensors.numpy import load_file

    about = json.loads((folder / f"{name}.json").read_text("utf-8"))
    arrays = load_file(folder / f"{name}-rows.safetensors")
    latency = {key.removeprefix("latency_s."): a for key, a in sorted(arrays.items()) if key.startswith("latency_s.")}
    return Table(
        name, {gene: tuple(values) for gene, values in about["genes"].items()}, arrays["right"], about["samples"],
        arrays["weight_bytes"], latency, about["provenance"],
    )  # fmt: skip


def save(table: Table, folder: Path = ROWS) -> None:
    """Write it where `load` finds it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    about = {"genes": table.genes, "samples": table.samples, "provenance": table.provenance}
    (folder / f"{table.name}.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    latency = {f"latency_s.{target}": values for target, values in table.latency_s.items()}
    arrays: dict[str, NDArray[Any]] = {"right": table.right, "weight_bytes": table.weight_bytes, **latency}
    save_file(arrays, folder / f"{table.name}-rows.safetensors")
