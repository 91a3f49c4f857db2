"""Runtimes of another architecture through this environment's own pip, into a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from targets.errors import MissingDependency

__all__ = ["install_wheels", "wanted"]

_OLDEST_GLIBC = 17
"""manylinux2014 is glibc 2.17, the first that has wheels for arm64. Source: PEP 599."""


def wanted() -> list[str]:
    """Requirements: the runtimes of this environment in their versions, so that the two can be compared."""
    return [_pinned("onnxruntime", "onnxruntime"), _pinned("ai-edge-litert", "ai-edge-litert>=2"), "numpy>=2"]


def _pinned(name: str, otherwise: str) -> str:
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return otherwise


def install_wheels(
    requirements: Sequence[str], folder: Path, *, python: str, glibc_minor: int, report: Path
) -> dict[str, dict[str, str]]:
    """Install wheels for Linux on arm64 into `folder`. Nothing is built and nothing of this environment changes.

    Args:
        python: Version of the interpreter that will import them, as 3.11.
        glibc_minor: Of the C library that they will find, as 36 of 2.36.

    Returns:
        For each package its version, and the SHA-256 that pip checked.

    Raises:
        MissingDependency: pip is not installed, finds no such wheel, or cannot reach its index.
    """
    if find_spec("pip") is None:
        raise MissingDependency("pip is not installed in this environment", hint="python -m ensurepip")
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(glibc_minor, _OLDEST_GLIBC - 1, -1)]
    words = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--target", str(folder)),
        *("--only-binary=:all:", "--no-deps", "--no-compile", "--implementation", "cp", "--python-version", python),
        *(word for name in (*platforms, "manylinux2014_aarch64") for word in ("--platform", name)),
        *("--report", str(report), *requirements),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or ["ERROR: no word"]
        raise MissingDependency(
            f"pip: {said[-1].removeprefix('ERROR: ')[:300]}",
            hint="see that pip reaches its index; `pip download onnxruntime` tries it",
        )
    return {_name(item): _facts(item) for item in json.loads(report.read_text("utf-8"))["install"]}


def _name(item: Any) -> str:
    return str(item["metadata"]["name"])


def _facts(item: Any) -> dict[str, str]:
    hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
    return {"version": str(item["metadata"]["version"]), "sha256": str(hashes.get("sha256", ""))}
