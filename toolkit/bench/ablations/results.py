"""What was measured, kept as one file an ablation and kind of device: sizes, versions, every number of every seed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from targets.errors import InvalidInput
from toolkit.bench.ablations.ablation import Measures
from toolkit.bench.ablations.presets import Device, Preset
from toolkit.bench.training_cost.results import machine
from toolkit.digests import canonical_digest
from toolkit.version import __version__

__all__ = ["RECORDED", "Kept", "joined", "keep", "kept", "made_here"]

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
    """Runs of this process. Of a text its name and digest are kept, not where it lay."""
    versions = {"toolkit": __version__, "torch": str(torch.__version__), "numpy": np.__version__,
                "scipy": scipy.__version__}  # fmt: skip
    if preset.text is not None:
        named = f"{Path(preset.text).name}, sha256 {hashlib.sha256(Path(preset.text).read_bytes()).hexdigest()[:16]}"
        preset = replace(preset, text=named)
    return Kept(ablation=ablation, preset=preset, runs=runs, machine=machine(preset.device), versions=versions)


def joined(parts: Sequence[Kept]) -> Kept:
    """Seeds of one ablation that were run apart, as one.

    Raises:
        InvalidInput: there are none, or not of one ablation, size, machine and versions; or two have a seed in common.
    """
    made = {(p.ablation, canonical_digest(replace(p.preset, seeds=1).to_data()), p.machine, *p.versions.items())
            for p in parts}  # fmt: skip
    seeds = [seed for part in parts for seed in part.runs]
    if len(made) != 1 or len(set(seeds)) < len(seeds):
        raise InvalidInput(
            f"{len(parts)} results of {len(made)} kinds, with seeds {sorted(seeds)}, do not make one",
            hint="join different seeds of one ablation, preset, machine and versions",
        )
    runs = {seed: part.runs[seed] for part in parts for seed in part.runs}
    preset = replace(parts[0].preset, seeds=len(runs))
    return replace(parts[0], preset=preset, runs={seed: runs[seed] for seed in sorted(runs)})


def keep(what: Kept, folder: Path = RECORDED) -> Path:
    """Write `what` in place of what was kept of this ablation on such a device before, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    file = _file(folder, what.ablation, what.preset.device)
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    scratch.write_text(json.dumps(what.to_data(), indent=1) + "\n", "utf-8")
    os.replace(scratch, file)
    return file


def kept(ablation: str, folder: Path = RECORDED, *, device: Device = "cpu") -> Kept | None:
    """What was kept of an ablation on such a device; None where nothing was.

    Raises:
        InvalidInput: its file is damaged or of another version.
    """
    file = _file(folder, ablation, device)
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


def _file(folder: Path, ablation: str, device: Device) -> Path:
    return folder / f"{ablation}{'' if device == 'cpu' else f'.{device}'}.json"


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None
