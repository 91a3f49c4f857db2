"""The fields of a bundle's report.json that others compute with, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from passes.proof import MetricChange, Proof
from targets.errors import InvalidInput

if TYPE_CHECKING:
    from toolkit.bundle.bundle import Bundle

__all__ = ["Document", "read_document"]


def _metric(data: Mapping[str, Any] | None) -> MetricChange | None:
    return None if data is None else MetricChange.from_json(data)


class _Part(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)


class _Model(_Part):
    name: str
    digest: str


class _Stack(_Part):
    id: str
    runtime: str
    calibrated: bool


class _Artifact(_Part):
    file: str
    format: str
    complete: bool
    checked: str


class _Verdict(_Part):
    outcome: str


class _Summary(_Part):
    size_bytes: int
    latency_s: float
    latency_interval_s: tuple[float, float]
    memory_bytes: float
    memory_interval_bytes: tuple[float, float]
    energy_j: float
    energy_interval_j: tuple[float, float]
    extrapolated: bool


class _Accuracy(_Part):
    metric: Annotated[MetricChange | None, BeforeValidator(_metric)]
    identical: bool
    worst_sqnr_db: float | None
    data: str
    samples: int


class _Operator(_Part):
    op_class: str = Field(alias="class")
    latency_s: float


class _Estimate(_Part):
    operators: list[_Operator]
    fixed_s: float
    provenance: str
    memory_provenance: str
    energy_provenance: str

    @property
    def sources(self) -> dict[str, str]:
        """Where each estimate is from; that of a stack without measurements says so."""
        return {"latency": self.provenance, "memory": self.memory_provenance, "energy": self.energy_provenance}


class Document(_Part):
    """A report, as `toolkit.report.document` writes it."""

    model: _Model
    stack: _Stack
    artifact: _Artifact
    verdict: _Verdict
    after: _Summary
    accuracy: _Accuracy
    estimate: _Estimate
    proofs: list[Annotated[Proof, BeforeValidator(Proof.from_json)]]
    versions: dict[str, str]


def read_document(bundle: Bundle) -> Document:
    """What the bundle's report.json says.

    Raises:
        InvalidInput: it lacks something, or a number in it is none.
    """
    try:
        return Document.model_validate(bundle.report)
    except (ValueError, KeyError, TypeError) as error:
        field = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else str(error)
        raise InvalidInput(
            f"{bundle.path / 'report.json'} is damaged: {field}", hint="copy the bundle again, or compile again"
        ) from error
