"""A bundle, checked and opened with nothing but numpy and onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from passes.dataset import Array, Sample
from passes.onnxruntime import Session
from passes.signature import Signature
from targets.errors import InvalidInput
from toolkit.bundle.golden import Golden, read_golden
from toolkit.bundle.hashes import check_hashes
from toolkit.bundle.layout import GRAPH, MANIFEST, SCHEMA

__all__ = ["Opened", "open_bundle"]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A bundle whose files are those that were written. `preprocess` is how its images were prepared.

    `lowered` names the file that the device runs, where that is not the graph itself: onnxruntime runs the graph.
    """

    folder: Path
    name: str
    stack: str
    lowered: str
    preprocess: str
    signature: Signature
    threads: int

    @cached_property
    def session(self) -> Session:
        return Session((self.folder / GRAPH).read_bytes(), threads=self.threads)

    @property
    def golden(self) -> list[Golden]:
        return read_golden(self.folder / "golden.npz")

    def __call__(self, sample: Sample) -> dict[str, Array]:
        """The answers, by output name.

        Raises:
            InvalidInput: the arrays do not fit the signature.
        """
        self.signature.check_inputs(sample)
        return self.session(sample)


def open_bundle(folder: Path, *, threads: int = 1) -> Opened:
    """Open the bundle at `folder` after every file was held against its hash, but for the runner itself.

    Raises:
        InvalidInput: it is not a bundle, or not as it was written, or holds no graph.
    """
    manifest = _manifest(folder)
    try:
        file = manifest["artifact"]["file"]
        check_hashes(folder, manifest["sha256"], needed=(file, GRAPH, "golden.npz"), trusted="run/")
        return Opened(
            folder=folder,
            name=str(manifest["name"]),
            stack=str(manifest["stack"]),
            lowered="" if file == GRAPH else str(file),
            preprocess=str(manifest["model"]["preprocessing"]),
            signature=Signature.from_json(manifest["signature"]),
            threads=threads,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInput(f"{folder / MANIFEST} is damaged: {error}", hint="copy the bundle again") from error


def _manifest(folder: Path) -> Mapping[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(
            f"{folder} is not a bundle: no {MANIFEST}",
            hint="leave this program in the folder run/ of its bundle, or name the bundle with --bundle",
        ) from error
    except ValueError as error:
        raise InvalidInput(f"{folder / MANIFEST} is damaged", hint="copy the bundle again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise InvalidInput(f"{folder} is a bundle of another version", hint="compile it again, with --standalone")
    return manifest
