"""Keep the libraries' notes out of the user's terminal: what matters is raised, and said once."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_libraries", "silent_output"]


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No warnings, deprecation notes, progress lines or logged tracebacks inside the block."""
    before = logging.root.manager.disable  # one switch: a level for each logger costs a walk over all of them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


@contextmanager
def silent_output(descriptor: int = 1) -> Iterator[None]:
    """Nothing on standard output inside the block, not from C++ either: torch prints whole graphs when it fails.

    Args:
        descriptor: 2 for standard error instead.
    """
    stream = sys.stdout if descriptor == 1 else sys.stderr
    stream.flush()
    kept = os.dup(descriptor)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(kept, descriptor)
        os.close(kept)
