"""atlas.json, whole and unchanged: its first field is a checksum of every byte behind it.

A checksum tells a damaged copy, not a forged one: who changes a file on purpose can write another. What an atlas says
is therefore read as data that a stranger may have written, and names no code that runs unasked.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from targets.errors import InvalidInput

__all__ = ["ATLAS", "VERSION", "sealed", "unsealed"]

ATLAS, VERSION = "atlas.json", 2

_SEAL = re.compile(rb'{\n "checksum": "([0-9a-f]{32})",\n')
_DAMAGED = "copy it again, or search again"


def sealed(text: str) -> bytes:
    """The JSON object `text`, indented by one, with its checksum."""
    first, rest = text.encode("utf-8").split(b"\n", 1)
    assert first == b"{"
    return b'{\n "checksum": "%b",\n%b' % (_checksum(rest), rest)


def unsealed(content: bytes, name: str) -> bytes:
    """`content`, which is JSON, when it is what `sealed` wrote.

    Raises:
        InvalidInput: it is of another version, cut off, or a byte was changed.
    """
    seal = _SEAL.match(content)
    if seal is None:
        version = _version_in(content)
        if version is not None and version != VERSION:
            raise InvalidInput(
                f"{name} is of version {version}; this toolkit reads {VERSION}",
                hint="read it with the toolkit that wrote it, or search again",
            )
        raise InvalidInput(f"{name} is damaged: it does not begin with its checksum", hint=_DAMAGED)
    if seal[1] != _checksum(content[seal.end() :]):
        raise InvalidInput(f"{name} is damaged: it was cut off, or a byte of it was changed", hint=_DAMAGED)
    return content


def _checksum(rest: bytes) -> bytes:
    return hashlib.blake2b(rest, digest_size=16).hexdigest().encode()


def _version_in(content: bytes) -> int | None:
    """What an atlas without a checksum, as version 1 was, says of itself."""
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    version = document.get("version") if isinstance(document, dict) else None
    return version if type(version) is int else None
