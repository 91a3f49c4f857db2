"""Finished passes, kept by content: a killed compile goes on where it was, an equal one computes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from passes.program import Level, Program
from passes.proof import Proof
from targets.errors import InvalidInput

__all__ = ["DiskCache", "cache_folder", "fingerprint"]

_LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


def cache_folder() -> Path:
    """TOOLKIT_CACHE, else edge-toolkit under the user's cache folder."""
    if stated := os.environ.get("TOOLKIT_CACHE"):
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-toolkit"


@cache
def fingerprint() -> str:
    """SHA-256 of the code and the library versions that decide what a pass makes."""
    import passes
    import targets

    state = hashlib.sha256()
    for name in _LIBRARIES:
        state.update(f"{name}={version(name)}\n".encode())
    for package in (passes, targets):
        root = Path(package.__path__[0])
        for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".toml", ".json")):
            state.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return state.hexdigest()


class DiskCache:
    """A folder of entries, each written whole or not at all. A damaged entry counts as absent."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()

    def proof(self, key: str) -> tuple[Proof, bool] | None:
        """See `passes.running.PassCache`."""
        facts = self._facts(key)
        try:
            return (Proof.from_json(facts["proof"]), facts["model_sha256"] is not None) if facts else None
        except (KeyError, TypeError, ValueError):
            return None

    def program(self, key: str, like: Program) -> Program | None:
        """See `passes.running.PassCache`."""
        facts = self._facts(key)
        try:
            content = (self._entry(key) / "model.onnx").read_bytes()
        except OSError:
            return None
        if facts is None or hashlib.sha256(content).hexdigest() != facts.get("model_sha256"):
            return None
        return _program(content, like, facts["facts"])

    def _entry(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _facts(self, key: str) -> dict[str, Any] | None:
        try:
            facts = json.loads((self._entry(key) / "entry.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def store(self, key: str, program: Program, proof: Proof) -> None:
        """See `passes.running.PassCache`."""
        entry = self._entry(key)
        content = program.onnx_bytes if program.level is Level.ONNX else None
        facts = {
            "proof": proof.to_json(),
            "facts": sorted(program.facts),
            "model_sha256": hashlib.sha256(content).hexdigest() if content is not None else None,
        }
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=entry.parent, ignore_cleanup_errors=True) as folder:
                scratch = Path(folder, "entry")
                scratch.mkdir()
                if content is not None:
                    (scratch / "model.onnx").write_bytes(content)
                (scratch / "entry.json").write_text(json.dumps(facts), "utf-8")
                if entry.exists():
                    shutil.rmtree(entry)
                os.replace(scratch, entry)
        except OSError as error:
            if entry.is_dir():
                return  # another process has just stored the same result
            raise InvalidInput(
                f"cannot write the cache {self.folder}: {error.strerror}",
                hint="set TOOLKIT_CACHE to a folder you may write, or go without: --no-cache",
            ) from error


def _program(content: bytes, like: Program, facts: Iterable[str]) -> Program:
    import onnx
    import onnx_ir

    return Program(
        name=like.name,
        level=Level.ONNX,
        model=onnx_ir.from_proto(onnx.load_model_from_string(content)),
        signature=like.signature,
        example=like.example,
        facts=frozenset(facts),
        reference=like.truth,
    )
