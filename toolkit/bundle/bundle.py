"""Open a bundle: every file is checked against the manifest before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from passes.dataset import Array
from passes.signature import Signature
from targets.errors import InvalidInput
from toolkit.backends import BACKENDS
from toolkit.backends.backend import Artifact
from toolkit.bundle.golden import Golden, read_golden
from toolkit.bundle.hashes import check_hashes
from toolkit.bundle.layout import MANIFEST, SCHEMA

__all__ = ["Bundle", "open_bundle"]


class _Artifact(BaseModel):
    file: str
    format: str
    complete: bool
    remaining: str


class _Tensor(BaseModel):
    name: str
    dtype: str
    shape: list[int | str]


class _Signature(BaseModel):
    inputs: list[_Tensor]
    outputs: list[_Tensor]


class Manifest(BaseModel):
    """The fields of manifest.json that opening a bundle relies on."""

    name: str
    stack: str
    backend: Literal["onnxruntime", "webgpu", "tensorrt", "litert", "ahead_of_time"]
    artifact: _Artifact
    signature: _Signature
    sha256: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """A compiled model on disk. Call it with an array (one input) or a mapping of arrays."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def signature(self) -> Signature:
        return Signature.from_json(self.manifest["signature"])

    @property
    def artifact(self) -> Artifact:
        return Artifact.from_json(self.manifest["artifact"])

    @property
    def report(self) -> Mapping[str, Any]:
        """The content of report.json."""
        document: Mapping[str, Any] = json.loads((self.path / "report.json").read_text("utf-8"))
        return document

    @property
    def golden(self) -> list[Golden]:
        return read_golden(self.path / "golden.npz")

    def __call__(self, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
        """The artefact's answers, by output name.

        Raises:
            InvalidInput: the arrays do not fit the signature.
        """
        signature = self.signature
        named = inputs if isinstance(inputs, Mapping) else {signature.inputs[0].name: np.asarray(inputs)}
        signature.check_inputs(named)
        answers: dict[str, Array] = self._runnable(named)
        return answers

    @cached_property
    def _runnable(self) -> Any:
        return BACKENDS[self.manifest["backend"]].load(self.path / self.artifact.file)

    def _repr_html_(self) -> str:
        return (self.path / "report.html").read_text("utf-8")


def open_bundle(path: str | Path) -> Bundle:
    """Open the bundle at `path`.

    Raises:
        InvalidInput: it is not a bundle, a file is missing, or a file is not the one that was written.
    """
    folder = Path(path)
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(
            f"{folder} is not a bundle: no {MANIFEST}", hint="name the folder that `toolkit compile` wrote"
        ) from error
    except ValueError as error:
        raise InvalidInput(f"{folder / MANIFEST} is damaged", hint="compile again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise InvalidInput(f"{folder} is a bundle of another version", hint="compile again with this version")
    try:
        facts = Manifest.model_validate(manifest)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise InvalidInput(f"{folder / MANIFEST} is damaged: {where}", hint="compile again") from error
    check_hashes(folder, facts.sha256, needed=(facts.artifact.file, "golden.npz", "report.json"))
    return Bundle(folder, manifest)
