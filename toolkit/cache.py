"""Finished passes, kept by content: a killed compile goes on where it was, an equal one computes nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from passes.program import Level, Program
from passes.proof import Proof
from targets.errors import InvalidInput

__all__ = ["MAX_BYTES", "SEARCH", "DiskCache", "Entry", "cache_folder", "fingerprint"]

MAX_BYTES = 5_000_000_000
"""What a cache may hold where the user said nothing else."""

SEARCH = "search"
"""Folder of the cache in which searches keep what they evaluated; beyond `MAX_BYTES`, for a search is not to lose it
half way."""

_log = logging.getLogger(__name__)
_STATE = "state.json"
_ABANDONED_S = 86_400.0  # a compile that still runs may own a younger scratch folder
_LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


def cache_folder() -> Path:
    """TOOLKIT_CACHE, else edge-toolkit under the user's cache folder."""
    if stated := os.environ.get("TOOLKIT_CACHE"):
        return Path(stated)
    if stated := os.environ.get("XDG_CACHE_HOME"):
        return Path(stated) / "edge-toolkit"
    try:
        return Path.home() / ".cache" / "edge-toolkit"
    except RuntimeError as error:  # no HOME, and a user that the system does not know
        raise InvalidInput("there is no home folder to keep a cache in", hint="set HOME, or TOOLKIT_CACHE") from error


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


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A kept result. `used` is when it was last written or read, in seconds since 1970."""

    path: Path
    bytes: int
    used: float


class DiskCache:
    """A folder of entries, each written whole or not at all. A damaged entry counts as absent.

    `state.json` beside them holds their bytes as far as this toolkit has counted, so that a compile need not look
    through the folder, and the bound. Beyond the bound the entries that were used least recently go.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()
        self._unwritable = False

    # ---- the passes' side

    def proof(self, key: str) -> tuple[Proof, bool] | None:
        """See `passes.running.PassCache`."""
        facts = self._facts(key)
        with suppress(OSError):  # absent, or in a folder that may only be read
            os.utime(self._entry(key))
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
        """See `passes.running.PassCache`. A folder that cannot be written is said once; the compile goes on without."""
        if self._unwritable:
            return
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
            self._count(_bytes_of(entry))
        except OSError as error:
            if entry.is_dir():
                return  # another process has just stored the same result
            self._unwritable = True
            _log.warning(
                "warning: going on without the cache: cannot write %s: %s\n"
                "  next: free some space (`toolkit cache --clear`), or set TOOLKIT_CACHE to a folder you may write",
                self.folder, error.strerror,
            )  # fmt: skip

    # ---- the user's side

    @property
    def max_bytes(self) -> int:
        """The bound: what `keep_below` was told last, else `MAX_BYTES`."""
        return self._state().get("max_bytes", MAX_BYTES)

    def entries(self) -> list[Entry]:
        """Everything that is kept, least recently used first."""
        found = []
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(OSError):  # another process has just removed it
                if (path / "entry.json").is_file():
                    found.append(Entry(path=path, bytes=_bytes_of(path), used=path.stat().st_mtime))
        return sorted(found, key=lambda entry: (entry.used, entry.path.name))

    def keep_below(self, max_bytes: int) -> list[Entry]:
        """Set the bound, and drop what lies beyond it. Returns what was dropped."""
        return self._changing(lambda: self._prune(max_bytes, max_bytes))

    def clear(self) -> list[Entry]:
        """Drop every entry and nothing else of the folder. Returns what was dropped."""
        return self._changing(lambda: self._prune(0, self.max_bytes))

    def searched(self) -> list[Entry]:
        """What searches keep, least recently written first."""
        found = []
        for path in (self.folder / SEARCH).glob("edition-*/[0-9a-f][0-9a-f]/*"):
            with suppress(OSError):  # another process has just removed it
                if path.is_file() and not path.is_symlink():
                    facts = path.stat()
                    found.append(Entry(path=path, bytes=facts.st_size, used=facts.st_mtime))
        return sorted(found, key=lambda entry: (entry.used, entry.path.name))

    def clear_searched(self) -> list[Entry]:
        """Drop what searches keep. Returns what was dropped; a search under way makes it anew."""

        def drop() -> list[Entry]:
            dropped = self.searched()
            for entry in dropped:
                entry.path.unlink(missing_ok=True)
            return dropped

        return self._changing(drop)

    def _changing(self, change: Callable[[], list[Entry]]) -> list[Entry]:
        try:
            return change()
        except OSError as error:
            raise InvalidInput(
                f"cannot change the cache {self.folder}: {error.strerror}", hint="see who owns that folder"
            ) from error

    def _count(self, added: int) -> None:
        """Remember that `added` bytes came, and prune to nine tenths where that is too much: not at every pass."""
        state = self._state()
        bound = state.get("max_bytes", MAX_BYTES)
        known = state["bytes"] + added if "bytes" in state else sum(e.bytes for e in self.entries())
        if known > bound:
            self._prune(bound * 9 // 10, bound)
        else:
            self._write_state(known, bound)

    def _prune(self, goal: int, bound: int) -> list[Entry]:
        kept = self.entries()
        total, dropped = sum(e.bytes for e in kept), []
        for entry in kept:
            if total <= goal:
                break
            shutil.rmtree(entry.path, ignore_errors=True)
            total -= entry.bytes
            dropped.append(entry)
        for left in self.folder.glob("[0-9a-f][0-9a-f]/.new-*"):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        self._write_state(total, bound)
        return dropped

    def _state(self) -> dict[str, int]:
        try:
            state = json.loads((self.folder / _STATE).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        known = state if isinstance(state, dict) else {}
        return {key: value for key, value in known.items() if type(value) is int and value >= 0}

    def _write_state(self, total: int, bound: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = self.folder / f".{_STATE}.{os.getpid()}"
        scratch.write_text(json.dumps({"bytes": total, "max_bytes": bound}), "utf-8")
        os.replace(scratch, self.folder / _STATE)


def _bytes_of(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.iterdir())


def _program(content: bytes, like: Program, facts: Iterable[str]) -> Program:
    import onnx
    import onnx_ir

    return Program(
        name=like.name,
        level=Level.ONNX,
        model=onnx_ir.from_proto(onnx.load_model_from_string(content)),
        signature=like.signature,
        example=like.example,
        assumed=like.assumed,
        facts=frozenset(facts),
        reference=like.truth,
    )
