"""Golden inputs and outputs: what the artefact was given when it was made, and what it answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from passes.dataset import Array, Sample
from targets.errors import InvalidInput

__all__ = ["GOLDEN_SAMPLES", "Golden", "read_golden", "write_golden"]

GOLDEN_SAMPLES = 4


@dataclass(frozen=True)
class Golden:
    """One sample: inputs, the artefact's outputs, and those of the float reference."""

    inputs: Sample
    outputs: Mapping[str, Array]
    reference: Mapping[str, Array]


def write_golden(
    path: Path,
    samples: Sequence[Sample],
    artefact: Callable[[Sample], Mapping[str, Array]],
    reference: Callable[[Sample], Mapping[str, Array]],
) -> None:
    """Run both on `samples` and store everything, as `0/input/NAME`, `0/output/NAME`, `0/reference/NAME` and so on."""
    arrays: dict[str, Array] = {}
    for i, sample in enumerate(samples):
        for kind, values in (("input", sample), ("output", artefact(sample)), ("reference", reference(sample))):
            arrays.update({f"{i}/{kind}/{name}": np.asarray(value, order="C") for name, value in values.items()})
    np.savez(path, **arrays)  # type: ignore[arg-type]  # entries carry a fixed date: equal arrays give equal bytes


def read_golden(path: Path) -> list[Golden]:
    """Every sample of a golden file.

    Raises:
        InvalidInput: it is damaged.
    """
    try:
        return _read(path)
    except Exception as error:  # numpy and zipfile raise anything on damaged bytes, TokenError among it
        raise InvalidInput(f"{path} is damaged: {error}", hint="copy the bundle again, or compile again") from error


def _read(path: Path) -> list[Golden]:
    with np.load(path, allow_pickle=False) as stored:
        count = 1 + max(int(key.partition("/")[0]) for key in stored.files)
        samples = [
            Golden(*(_part(stored, f"{i}/{kind}/") for kind in ("input", "output", "reference"))) for i in range(count)
        ]
    if any(not s.outputs or s.outputs.keys() != s.reference.keys() for s in samples):
        raise ValueError("a sample without its answers")
    return samples


def _part(stored: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    found = {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}
    if any(not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" for value in found.values()):
        raise ValueError("an entry that is no array of numbers")  # numpy hands over what it does not know as bytes
    return found
