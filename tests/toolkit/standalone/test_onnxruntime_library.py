"""Where the C runner's library comes from, and what is refused."""

from __future__ import annotations

import platform
import zipfile
from pathlib import Path

import pytest

from targets.errors import InvalidInput, MissingDependency
from toolkit.emulator.root import home
from toolkit.standalone.onnxruntime_library import onnxruntime_library

OTHER = "aarch64" if platform.machine() == "x86_64" else "x86_64"
MACHINES = {"aarch64": 183, "x86_64": 62}


def elf(architecture: str) -> bytes:
    """The beginning of a shared library."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + MACHINES[architecture].to_bytes(2, "little") + bytes(40)


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_this_machines_library_is_that_of_this_environment() -> None:
    library = onnxruntime_library(platform.machine())
    assert library.content[:4] == b"\x7fELF"
    assert b"OrtGetApiBase" in library.content
    assert "MIT License" in library.terms["LICENSE"]


def test_another_machines_library_comes_out_of_a_wheel(tmp_path: Path) -> None:
    files = {"onnxruntime/capi/libonnxruntime.so.1.32.0": elf(OTHER), "onnxruntime/LICENSE": b"terms"}
    library = onnxruntime_library(OTHER, wheel(tmp_path / "o.whl", files))
    assert (library.content, library.version, library.terms) == (elf(OTHER), "1.32.0", {"LICENSE": "terms"})


def test_without_wheel_and_emulator_both_are_named() -> None:
    assert not home().exists()
    with pytest.raises(MissingDependency, match=f"no onnxruntime for {OTHER}") as caught:
        onnxruntime_library(OTHER)
    assert "--install-emulator" in caught.value.hint
    assert f"manylinux_2_28_{OTHER}" in caught.value.hint


def test_onnxruntime_is_not_published_for_every_machine() -> None:
    with pytest.raises(MissingDependency, match="no library for armv7"):
        onnxruntime_library("armv7")


def test_a_wheel_for_another_machine_is_refused(tmp_path: Path) -> None:
    file = wheel(tmp_path / "o.whl", {"onnxruntime/capi/libonnxruntime.so.1.32.0": elf(platform.machine())})
    with pytest.raises(InvalidInput, match=f"is not for {OTHER}"):
        onnxruntime_library(OTHER, file)


@pytest.mark.parametrize("content", [b"", b"PK", b"no wheel"])
def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "o.whl").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"cannot read the wheel .*o\.whl"):
        onnxruntime_library(OTHER, tmp_path / "o.whl")


def test_a_wheel_that_is_not_there_or_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        onnxruntime_library(OTHER, tmp_path / "none.whl")
    with pytest.raises(InvalidInput, match=r"holds no libonnxruntime\.so"):
        onnxruntime_library(OTHER, wheel(tmp_path / "o.whl", {"numpy/core.so": elf(OTHER)}))
