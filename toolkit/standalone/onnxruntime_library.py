"""The shared library of onnxruntime for an architecture: of this environment, of the emulator, or of a named wheel."""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from targets.errors import InvalidInput, MissingDependency
from toolkit.emulator.root import installed_root

__all__ = ["Library", "onnxruntime_library"]

_ELF_MACHINES: Mapping[str, int] = {"aarch64": 183, "x86_64": 62}
"""e_machine of those that onnxruntime publishes wheels for, under Linux. Source: System V ABI, registry of machines."""

_TEXTS = ("LICENSE", "ThirdPartyNotices.txt")
_LARGEST_BYTES = 2**28
"""Of one file in a wheel that the user names; the library of 1.32 has 35 MB."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """The library, its version, and the terms under which it may be passed on, by file name."""

    content: bytes
    version: str
    terms: Mapping[str, str]


def onnxruntime_library(architecture: str, wheel: Path | None = None) -> Library:
    """The library for `architecture`, as `platform.machine()` calls it.

    Args:
        wheel: A .whl of onnxruntime. Without it: this environment's, if that is for `architecture`, else the one that
            `toolkit doctor --install-emulator` fetched. Nothing is downloaded here.

    Raises:
        MissingDependency: it is nowhere, or onnxruntime is not published for this architecture.
        InvalidInput: `wheel` is damaged, or for another architecture.
    """
    if architecture not in _ELF_MACHINES:
        raise MissingDependency(
            f"onnxruntime publishes no library for {architecture}",
            hint="use a stack that makes a program: toolkit targets TARGET lists them",
        )
    if wheel is not None:
        return _from_wheel(wheel, architecture)
    if architecture == platform.machine():
        return _from_folder(_installed(), architecture)
    try:
        return _from_folder(installed_root().site / "onnxruntime", architecture)
    except MissingDependency as error:
        raise MissingDependency(
            f"there is no onnxruntime for {architecture} here",
            hint="toolkit doctor --install-emulator  (once); or name a wheel: pip download onnxruntime --no-deps "
            f"--only-binary=:all: --platform manylinux_2_28_{architecture}",
        ) from error


def _installed() -> Path:
    spec = find_spec("onnxruntime")
    places = list((spec.submodule_search_locations if spec else None) or [])
    if not places:
        raise MissingDependency("onnxruntime is not installed", hint="pip install onnxruntime")
    return Path(places[0])


def _from_folder(folder: Path, architecture: str) -> Library:
    """Of an unpacked wheel."""
    found = sorted(folder.glob("capi/libonnxruntime.so.*"))
    if not found:
        raise MissingDependency(
            f"the onnxruntime in {folder} has no library for C programs", hint="pip install 'onnxruntime>=1.32'"
        )
    terms = {name: (folder / name).read_text("utf-8", "replace") for name in _TEXTS if (folder / name).is_file()}
    return Library(
        content=_checked(found[0].read_bytes(), architecture, folder), version=_version(found[0].name), terms=terms
    )


def _from_wheel(wheel: Path, architecture: str) -> Library:
    try:
        with zipfile.ZipFile(wheel) as archive:
            texts = {name: text.decode("utf-8", "replace") for name, text in _members(archive, _TEXTS)}
            found = next(_members(archive, ("capi/libonnxruntime.so.",)), None)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"cannot read the wheel {wheel}: {said}", hint="pip download it again") from error
    if found is None:
        raise InvalidInput(f"{wheel.name} holds no libonnxruntime.so", hint="give a wheel of onnxruntime 1.32 or later")
    return Library(content=_checked(found[1], architecture, wheel), version=_version(found[0]), terms=texts)


def _version(file: str) -> str:
    return file.partition(".so.")[2]


def _members(archive: zipfile.ZipFile, beginnings: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Files of the package whose names begin like that."""
    wanted = tuple(f"onnxruntime/{beginning}" for beginning in beginnings)
    for entry in archive.infolist():
        if entry.filename.startswith(wanted):
            if entry.file_size > _LARGEST_BYTES:
                raise ValueError(f"{entry.filename} has {entry.file_size:,} bytes")
            yield entry.filename.removeprefix("onnxruntime/"), archive.read(entry)


def _checked(content: bytes, architecture: str, where: Path) -> bytes:
    """`content`, which is an ELF file for `architecture`, little endian."""
    if content[:6] != b"\x7fELF\x02\x01" or int.from_bytes(content[18:20], "little") != _ELF_MACHINES[architecture]:
        raise InvalidInput(
            f"the library in {where} is not for {architecture}", hint=f"give a wheel for manylinux_2_28_{architecture}"
        )
    return content
