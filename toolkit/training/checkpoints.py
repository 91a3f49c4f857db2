"""What a training holds, written whole or not at all, and read back as data: no code is in it."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Checkpoint"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """One file in `folder`, laid out as the cache of finished passes is, so that what bounds that bounds this too.

    Args:
        folder: Of the cache; None keeps nothing.
        key: Hexadecimal digest of everything that decides the training.
    """

    folder: Path | None
    key: str

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None where there is nothing, or nothing that can be read."""
        if self.folder is None:
            return None
        try:
            state = torch.load(self._file, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError):
            return None
        return state if isinstance(state, dict) and state.get("key") == self.key else None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what was saved. Where that cannot be written, training goes on without and says so."""
        if self.folder is None:
            return
        scratch = self._file.with_name(f".{os.getpid()}.new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with scratch.open("wb") as file:
                torch.save({**state, "key": self.key}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self._file)
            (self._file.parent / "entry.json").write_text(json.dumps({"training": self.key}), "utf-8")
        except (OSError, RuntimeError) as error:  # torch wraps what a full disk says
            with suppress(OSError):
                scratch.unlink()
            _log.warning("warning: going on without a checkpoint: cannot write in %s: %s", self.folder, error)

    @property
    def _file(self) -> Path:
        assert self.folder is not None
        return self.folder / self.key[:2] / self.key / "training.pt"
