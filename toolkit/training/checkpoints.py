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

from targets.errors import InvalidInput

__all__ = ["Checkpoint"]

_log = logging.getLogger(__name__)
_DAMAGE = (EOFError, OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError)
"""What torch raises on a file that can be read and makes no sense; OSError where it seeks beyond an end cut off."""


@dataclass(frozen=True)
class Checkpoint:
    """One file in `folder`, laid out as the cache of finished passes is, so that what bounds that bounds this too.

    Args:
        folder: Of the cache; None keeps nothing.
        key: Hexadecimal digest of everything that decides the training.
        file: In place of the folder: a file for this training alone, that the user knows of. What is damaged in it, or
            belongs to another training, is then an error instead of nothing.
        anew: Unless this is set: what cannot be used is then replaced.
    """

    folder: Path | None
    key: str
    file: Path | None = None
    anew: bool = False

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None where there is nothing, or nothing that can be read.

        Raises:
            InvalidInput: `file` is there and cannot be read, or holds another training.
        """
        if self._path is None:
            return None
        try:
            self._path.open("rb").close()
        except OSError as error:
            if self._is_lenient or not self._path.exists():
                return None
            raise InvalidInput(
                f"cannot read {self._path}: {error.strerror}", hint="see who owns it, or train anew with --force"
            ) from error
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
        except _DAMAGE as error:
            if self._is_lenient:
                return None
            raise InvalidInput(
                f"{self._path} is cut short or damaged", hint="remove it, or train anew with --force"
            ) from error
        if isinstance(state, dict) and state.get("key") == self.key:
            return state
        if self._is_lenient:
            return None
        raise self._of_another(state)

    def _of_another(self, state: Any) -> InvalidInput:
        made = state.get("torch", "an unknown version") if isinstance(state, dict) else "something else"
        what = (f"a training of torch {made}, and this is {torch.__version__}" if made != torch.__version__ else
                "another training: another recipe, other data, or another kind of processor")  # fmt: skip
        return InvalidInput(
            f"{self._path} was left by {what}",
            hint="finish it with what it was begun with, train into another folder, or anew with --force",
        )

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what was saved. Where that cannot be written, training goes on without and says so."""
        if self._path is None:
            return
        scratch = self._path.with_name(f".{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with scratch.open("wb") as file:
                torch.save({**state, "key": self.key, "torch": str(torch.__version__)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self._path)
            if self.file is None:
                (self._path.parent / "entry.json").write_text(json.dumps({"training": self.key}), "utf-8")
        except (OSError, RuntimeError) as error:  # torch wraps what a full disk says
            with suppress(OSError):
                scratch.unlink()
            _log.warning("warning: going on without a checkpoint: cannot write in %s: %s", self._path.parent, error)

    @property
    def _is_lenient(self) -> bool:
        return self.file is None or self.anew

    @property
    def _path(self) -> Path | None:
        if self.file is not None:
            return self.file
        return None if self.folder is None else self.folder / self.key[:2] / self.key / "training.pt"
