"""One process at a time writes to a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.errors import SlimeError

__all__ = ["LOCK", "locked"]

LOCK = "lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder `path`; the lock goes with the process that held it.

    Raises:
        SlimeError: another process holds it.
    """
    with (path / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SlimeError(
                f"another process writes to {path}",
                hint="wait until it ends, or name another folder; reading what is there needs no lock",
            ) from error
        yield
