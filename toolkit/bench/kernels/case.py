"""What is timed: one operator on one shape, beside its peers; and the row that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Case", "Row", "Timing", "Ways"]

Way = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Ways:
    """An operator on inputs that lie on the device, and its peers on the same inputs.

    `error` gives the error of our answer against float64 and what is allowed; it is asked before anything is timed.
    """

    ours: Way
    error: Callable[[], tuple[float, float]]
    peers: Mapping[str, Way] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row to be: what is known without a device, and what makes the inputs once there is one.

    `flop` and `bytes_moved` are the fewest that any way could do: each input read once, each output written once.
    """

    operator: str
    shape: str
    kind: str
    """The device that the row is about: "cuda" or "cpu"."""

    prepare: Callable[[torch.device], Ways]
    flop: float = 0.0
    bytes_moved: float = 0.0
    peak: str = "bf16"
    """The arithmetic that the floor assumes: "bf16", "int8" or "fp32"."""

    goals: Mapping[str, float] = field(default_factory=dict)
    """By peer: how many times as fast as it we mean to be; by "floor": how many times the floor we may take."""


@dataclass(frozen=True)
class Timing:
    """Quartiles of the duration, in seconds."""

    lower_s: float
    median_s: float
    upper_s: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case as measured; `note` says why there are no figures. Ratios are a peer's time over ours."""

    operator: str
    shape: str
    device: str
    time: Timing | None = None
    flop_s: float = 0.0
    bytes_s: float = 0.0
    ratios: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    goals: Mapping[str, float] = field(default_factory=dict)
    floor_s: float = 0.0
    error: float = 0.0
    allowed_error: float = 0.0
    note: str = ""
