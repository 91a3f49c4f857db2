"""What was evaluated, kept on the disk by content: searches, targets and processes share it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.search.trials import Evaluated

__all__ = ["Kept", "KeptResults"]

EDITION = 2
"""Of how results are found from what their keys name; another one finds nothing of this one."""


class Kept:
    """JSON documents and files by key, each written whole or not at all. A damaged one counts as absent.

    Args:
        folder: None keeps nothing beyond this process.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder / f"edition-{EDITION}"
        self._held: dict[str, Any] = {}
        self.hits, self.misses = 0, 0

    def found(self, key: str, make: Callable[[], Any]) -> Any:
        """The document of `key`, made where there is none."""
        document = self.get(key)
        if document is not None:
            self.hits += 1
            return document
        self.misses += 1
        document = make()
        self.put(key, document)
        return document

    def get(self, key: str) -> Any:
        """The document of `key`, or None."""
        if key not in self._held and self.folder is not None:
            with suppress(OSError, ValueError):
                self._held[key] = json.loads(self._path(key, "json").read_text("utf-8"))
        return self._held.get(key)

    def put(self, key: str, document: Any) -> None:
        """Keep a document; a folder that cannot be written is done without."""
        self._held[key] = document
        if self.folder is not None:
            _write(self._path(key, "json"), json.dumps(document, allow_nan=False).encode())

    def content(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The bytes of `key`, made where there are none."""
        if self.folder is None:
            return make()
        path = self._path(key, "bin")
        with suppress(OSError):
            return path.read_bytes()
        content = make()
        _write(path, content)
        return content

    def _path(self, key: str, kind: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.{kind}"


def _write(path: Path, content: bytes) -> None:
    with suppress(OSError), ExitStack() as undone:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            undone.callback(os.unlink, file.name)  # what a full disk cut off is not left behind
            file.write(content)
        os.replace(file.name, path)
        undone.pop_all()


class KeptResults(MutableMapping[str, Evaluated]):
    """Results of evaluations, as a search wants its cache."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def __getitem__(self, key: str) -> Evaluated:
        document = self._kept.get(key)
        if document is None:
            raise KeyError(key)
        return Evaluated(**document)

    def __setitem__(self, key: str, value: Evaluated) -> None:
        self._kept.put(key, asdict(value))

    def __delitem__(self, key: str) -> None:
        raise TypeError("results are kept")

    def __iter__(self) -> Iterator[str]:
        raise TypeError("results are found by their keys alone")

    def __len__(self) -> int:
        raise TypeError("results are found by their keys alone")
