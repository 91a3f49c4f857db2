"""A file of JSON documents, one a line with a checksum, that grows at its end and survives a kill -9."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import ArchiveFormatError

__all__ = ["CheckedLines"]


class CheckedLines:
    """What `append` wrote is on the disk when it returns. A last line that a crash cut off does not count.

    Args:
        path: The file; it need not be there.
        what: It is part of, for errors.
        otherwise: What else to do where a line was changed and there is no copy, if there is anything.
    """

    def __init__(self, path: Path, what: str, otherwise: str = "") -> None:
        self.path, self._what, self._otherwise = path, what, otherwise

    def append(self, document: Mapping[str, Any]) -> None:
        """Write one more document.

        Raises:
            OSError: it could not be written; nothing of it counts.
        """
        text = json.dumps(document).encode("utf-8")
        left = memoryview(b"%08x %s\n" % (zlib.crc32(text), text))
        # without a buffer: closing one would write again what a full disk refused, behind the cut
        with self.path.open("ab", buffering=0) as file:
            start = file.tell()
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), start)
                raise

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Documents in the order they were written.

        Raises:
            ArchiveFormatError: a line was changed.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                checksum, _, text = line.rstrip(b"\n").partition(b" ")
                if checksum != b"%08x" % zlib.crc32(text):
                    raise ArchiveFormatError(
                        f"line {number} of {self.path.name} was changed, in {self.path.parent}",
                        hint=f"take the {self._what} from a copy{self._otherwise}",
                    )
                yield json.loads(text)

    def forget_torn_end(self) -> None:
        """Cut off what a crash left of a last line."""
        if self.path.exists():
            with self.path.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)

    def clear(self) -> None:
        """Leave nothing of it."""
        self.path.unlink(missing_ok=True)
