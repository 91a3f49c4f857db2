"""Under which terms an installed distribution may be passed on: the expression, and the texts that must go along."""

from __future__ import annotations

import platform
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

__all__ = ["Part", "openssl", "parts", "python", "terms"]

_IDS: Mapping[str, str] = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
}
"""SPDX's names for classifiers of the index, which older distributions have instead of an expression."""

_TEXTS = ("licen", "copying", "notice", "thirdparty")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A distribution. `licence` is an SPDX expression, empty where it states none; `texts` are files by name."""

    name: str
    version: str
    licence: str
    texts: Mapping[str, str]


def parts(*names: str, texts: bool = True) -> list[Part]:
    """Those of `names` that are installed; without their texts, which take longest, only what metadata says."""
    found = []
    for name in names:
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        read = _texts(installed) if texts else {}
        found.append(Part(name=name, version=installed.version, licence=_licence(installed), texts=read))
    return found


def python() -> Part:
    """The interpreter and its library."""
    places = (
        Path(sysconfig.get_path("stdlib"), "LICENSE.txt"),
        Path(f"/usr/share/doc/python{sys.version[:4]}/copyright"),
    )
    texts = {file.name: file.read_text("utf-8", "replace") for file in places if file.is_file()}
    return Part(name="python", version=platform.python_version(), licence="Python-2.0", texts=texts)


def openssl() -> Part:
    """The library that Python takes its hashes from."""
    import ssl

    text = Path("/usr/share/doc/libssl3/copyright")  # Debian's; other systems keep it elsewhere, or nowhere
    texts = {text.name: text.read_text("utf-8", "replace")} if text.is_file() else {}
    return Part(name="openssl", version=ssl.OPENSSL_VERSION.split()[1], licence="Apache-2.0", texts=texts)


def terms(inside: Iterable[Part]) -> str:
    """One text with the terms of all parts."""
    blocks = []
    for part in inside:
        heading = f"{part.name} {part.version}: {part.licence or 'see below'}"
        blocks.append(f"{heading}\n{'=' * len(heading)}\n")
        blocks += [f"--- {name}\n\n{text.strip()}\n" for name, text in part.texts.items()]
    return "\n".join(blocks)


def _licence(installed: Distribution) -> str:
    if "License-Expression" in installed.metadata:
        return str(installed.metadata["License-Expression"])
    return " AND ".join(sorted({_IDS[line] for line in installed.metadata.get_all("Classifier") or [] if line in _IDS}))


def _texts(installed: Distribution) -> dict[str, str]:
    """A frozen program has the metadata of its parts, and not all their files."""
    stated = {str(file): Path(str(file.locate())) for file in installed.files or ()}
    found = {name: file for name, file in stated.items() if file.name.lower().startswith(_TEXTS) and file.is_file()}
    return {name: found[name].read_text("utf-8", "replace") for name in sorted(found)}
