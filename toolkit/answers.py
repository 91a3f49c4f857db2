"""Answers to many samples, for people and for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from passes.dataset import Array

__all__ = ["lines", "plain", "stacked"]

_SHOWN_SAMPLES, _SHOWN_VALUES = 10, 3


def stacked(answers: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One array an output, samples along the first axis, which single numbers get."""
    join = {name: np.stack if value.ndim == 0 else np.concatenate for name, value in answers[0].items()}
    return {name: join[name]([answer[name] for answer in answers]) for name in answers[0]}


def lines(outputs: Mapping[str, Array]) -> Iterator[str]:
    """Type and shape of each output, then the largest values of the first samples with their places."""
    for name, values in outputs.items():
        yield f"{name}: {values.dtype}{list(values.shape)}"
        for i, row in enumerate(values.reshape(len(values), -1)[:_SHOWN_SAMPLES]):
            best = np.argsort(row)[::-1][:_SHOWN_VALUES]
            yield f"  sample {i}: " + ", ".join(f"[{int(b)}] {row[b]:.4g}" for b in best)


def plain(values: Array) -> Any:
    """Nested lists; JSON has no word for what is not finite, so it becomes null."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return values.tolist()
    held = values.astype(object)
    held[~np.isfinite(values)] = None
    return held.tolist()
