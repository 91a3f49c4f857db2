"""What was measured, kept as one file an ablation: sizes, device, versions, and every number of every seed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from targets.errors import InvalidInput
from toolkit.bench.ablations.ablation import Measures
from toolkit.bench.ablations.presets import Preset
from toolkit.bench.training_cost.results import machine
from toolkit.digests import canonical_digest
from toolkit.version import __version__

__all__ = ["RECORDED", "Kept", "keep", "kept", "made_here"]

RECORDED = Path(__file__).parent / "recorded"
_SCHEMA = "toolkit.bench.ablation/1"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The runs of one ablation on one machine, by seed."""

    ablation: str
    preset: Preset
    runs: Mapping[int, Mapping[str, Measures]]
    machine: str
    versions: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Of the sizes: runs of two of them are never mixed."""
        return canonical_digest(self.preset.to_data())

    def to_data(self) -> dict[str, Any]:
        """As JSON; what is not finite is null."""
        return {
            "schema": _SCHEMA, "ablation": self.ablation, "machine": self.machine, "versions": dict(self.versions),
            "preset": self.preset.to_data(), "digest": self.digest,
            "runs": {str(seed): {arm: {name: _short(value) for name, value in measures.items()}
                                 for arm, measures in arms.items()} for seed, arms in sorted(self.runs.items())},
        }  # fmt: skip


def made_here(ablation: str, preset: Preset, runs: Mapping[int, Mapping[str, Measures]]) -> Kept:
    """Runs of this process."""
    versions = {"toolkit": __version__, "torch": str(torch.__version__), "numpy": np.__version__,
                "scipy": scipy.__version__}  # fmt: skip
    return Kept(ablation=ablation, preset=preset, runs=runs, machine=machine(preset.device), versions=versions)


def keep(what: Kept, folder: Path = RECORDED) -> Path:
    """Write `what` in place of what was kept of this ablation before, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{what.ablation}.json"
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    scratch.write_text(json.dumps(what.to_data(), indent=1) + "\n", "utf-8")
    os.replace(scratch, file)
    return file


def kept(ablation: str, folder: Path = RECORDED) -> Kept | None:
    """What was kept of an ablation; None where nothing was.

    Raises:
        InvalidInput: its file is damaged or of another version.
    """
    file = folder / f"{ablation}.json"
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
        if found["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {found['schema']!r}")
        runs = {int(seed): {arm: {n: float("nan") if v is None else float(v) for n, v in measures.items()}
                            for arm, measures in arms.items()} for seed, arms in found["runs"].items()}  # fmt: skip
        return Kept(ablation=found["ablation"], preset=Preset(**found["preset"]), runs=runs, machine=found["machine"],
                    versions=found["versions"])  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{file} holds no results: {error}",
            hint=f"measure again: python -m toolkit.bench.ablation {ablation} --record",
        ) from error


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None
