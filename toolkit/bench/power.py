"""Published power logs, and the networks and stacks that their rows name."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from targets.workload import Workload
from toolkit.bench.published import published_rows, workload_of

__all__ = ["Logged", "logged", "workload_of_log"]


@dataclass(frozen=True, kw_only=True)
class Logged:
    """One single-stream run: mean watts over ten minutes, milliseconds and millijoules of an inference."""

    round: str
    system: str
    model: str
    watts: float
    least_watts: float
    latency_s: float
    energy_j: float

    @property
    def precision(self) -> str:
        """`int8` for the networks of a CPU submission that are quantized, else `fp32`."""
        quantized = self.model.endswith("_uint8") or (
            self.model.endswith("-quantized") and not self.model.endswith("non-quantized")
        )
        return "int8" if quantized else "fp32"


@cache
def logged() -> Sequence[Logged]:
    """Every row of the frozen table."""
    text = files("toolkit.bench").joinpath("rows", "power", "power.csv").read_text("utf-8")
    return [
        Logged(
            round=row["round"],
            system=row["system"],
            model=row["model"],
            watts=float(row["mean_watts"]),
            least_watts=float(row["min_watts"]),
            latency_s=float(row["mean_latency_ms"]) / 1e3,
            energy_j=float(row["mJ_per_inference"]) / 1e3,
        )
        for row in csv.DictReader(text.splitlines())
    ]


def workload_of_log(row: Logged, fuses: frozenset[str]) -> Workload | None:
    """The work of the row's network; None where it is not defined here."""
    shape = _shapes().get(row.model)
    return workload_of(f"mlperf:{row.model}", shape, fuses) if shape else None


@cache
def _shapes() -> Mapping[str, str]:
    """Input shapes by MLPerf name: the logs do not hold them, the latencies of the same submissions do."""
    return {row["model"].removeprefix("mlperf:"): row["input_shape"] for row in published_rows()
             if row["model"].startswith("mlperf:") and row["input_shape"]}  # fmt: skip
