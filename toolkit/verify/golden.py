"""Run a bundle's golden inputs through its artefact on this machine and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isinf
from typing import TYPE_CHECKING, Any

from passes.compare import errors, sqnr_db
from passes.dataset import Array
from passes.onnxruntime import Session
from targets.errors import InvalidInput
from toolkit.bundle.golden import Golden
from toolkit.bundle.layout import GRAPH

if TYPE_CHECKING:
    from toolkit.bundle.bundle import Bundle

__all__ = ["Verification", "judged", "verify_bundle"]

_FLOAT32_FLOOR_DB = 80.0


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How far this machine's answers are from those recorded, and how far those are from the float model.

    `floor_db` is what the first must reach: as close as the artefact is to the float model, or 80 dB where that is
    closer (float32 sums in another order), and never less than 0 dB. The output that fares worst is reported.
    """

    samples: int
    sqnr_db: float
    reference_sqnr_db: float
    floor_db: float

    @property
    def passed(self) -> bool:
        return self.sqnr_db >= self.floor_db

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "toolkit.verify/1",
            "passed": self.passed,
            "samples": self.samples,
            "sqnr_db": _finite(self.sqnr_db),
            "reference_sqnr_db": _finite(self.reference_sqnr_db),
            "floor_db": _finite(self.floor_db),
        }


def verify_bundle(bundle: Bundle, *, provider: str | None = None) -> Verification:
    """Compare answers made here with those in golden.npz; the output that moved most decides.

    Args:
        provider: One of `passes.onnxruntime.PROVIDERS`, on which the bundle's graph is run in place of its artefact.

    Raises:
        InvalidInput: golden.npz is damaged, or of another model.
        MissingDependency: the provider is not here.
    """
    samples = bundle.golden
    answer = bundle if provider is None else Session((bundle.path / GRAPH).read_bytes(), provider=provider)
    return judged(samples, [answer(golden.inputs) for golden in samples])


def judged(samples: Sequence[Golden], given: Sequence[Mapping[str, Array]]) -> Verification:
    """What `given`, answers to `samples` from elsewhere, are against those recorded.

    Raises:
        InvalidInput: they are of another model.
    """
    powers: dict[str, list[float]] = {}
    for golden, answers in zip(samples, given, strict=True):
        if answers.keys() != golden.outputs.keys():
            raise InvalidInput(
                f"golden.npz holds {', '.join(golden.outputs)}, the artefact answers {', '.join(answers)}",
                hint="copy the bundle again, or compile again",
            )
        for name, want in golden.outputs.items():
            power, here, _ = errors(want, answers[name])
            drift = errors(want, golden.reference[name])[1]
            powers[name] = [a + b for a, b in zip(powers.get(name, [0.0] * 3), (power, here, drift), strict=True)]
    rows = [_row(len(samples), *totals) for totals in powers.values()]
    return min(rows, key=lambda row: (row.passed, row.sqnr_db - row.floor_db if row.sqnr_db != inf else inf))


def _row(samples: int, signal: float, noise: float, reference_noise: float) -> Verification:
    drift = sqnr_db(signal, reference_noise)
    floor_db = max(0.0, min(_FLOAT32_FLOOR_DB, drift))
    return Verification(samples=samples, sqnr_db=sqnr_db(signal, noise), reference_sqnr_db=drift, floor_db=floor_db)


def _finite(value: float) -> float | None:
    return None if isinf(value) else round(value, 2)
