"""The compiler that torch is given: one whose shared libraries share the C++ library with torch."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from targets.errors import MissingDependency
from toolkit import inductor


def compiler(folder: Path, name: str, options: str) -> Path:
    """g++ with `options` behind every command, as some machines have it for CXX."""
    file = folder / name
    file.write_text(f'#!/bin/sh\nexec {shutil.which("g++")} "$@" {options}\n')
    file.chmod(0o755)
    return file


@pytest.mark.slow
def test_the_compiler_that_is_stated_is_taken_where_it_links_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = compiler(tmp_path, "own-g++", "")
    monkeypatch.setenv("CXX", str(own))
    assert inductor.cxx() == str(own)
    monkeypatch.delenv("CXX")
    assert inductor.cxx() == "g++"


@pytest.mark.slow
def test_one_that_links_the_library_statically_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    static = compiler(tmp_path, "static-g++", "-static-libstdc++")
    source, made = tmp_path / "a.cpp", tmp_path / "a.so"
    source.write_text('#include <string>\nextern "C" int length() { return (int)std::to_string(1234).size(); }\n')
    subprocess.run([static, "-shared", "-fPIC", source, "-o", made], check=True)
    assert ctypes.CDLL(str(made)).length() == 4  # it works, by itself
    monkeypatch.setenv("CXX", str(static))
    assert inductor.cxx() == "g++"


def test_where_no_compiler_links_shared_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path, "g++", "-static-libstdc++")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(inductor, "_links_shared", lambda name: False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependency, match="cannot link the C\\+\\+ library as a shared one") as refusal:
        inductor.cxx()
    assert "CXX" in refusal.value.hint


def test_without_a_compiler_torch_is_left_to_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-g++")
    assert inductor.cxx() == "no-such-g++"
