"""Put runners into a bundle: run/ with the program, and the terms under which its parts may be passed on."""

from __future__ import annotations

import shutil
from pathlib import Path

from toolkit.bundle.licences import Part, parts, python

__all__ = ["put_runner", "shipped_parts"]

_INSIDE = ("edge-toolkit", "numpy", "onnxruntime", "pillow", "pyinstaller")
_LICENCES = "LICENSES.txt"


def put_runner(program: Path, bundle: Path) -> None:
    """Copy `program`, of `frozen_runner`, to run/ in the folder of a bundle."""
    folder = bundle / "run"
    folder.mkdir()
    shutil.copy(program, folder / program.name)
    (folder / _LICENCES).write_text(_texts(shipped_parts()), "utf-8")


def shipped_parts() -> list[Part]:
    """What is inside the runner."""
    return [python(), *parts(*_INSIDE)]


def _texts(inside: list[Part]) -> str:
    blocks = []
    for part in inside:
        heading = f"{part.name} {part.version}: {part.licence or 'see below'}"
        blocks.append(f"{heading}\n{'=' * len(heading)}\n")
        blocks += [f"--- {name}\n\n{text.strip()}\n" for name, text in part.texts.items()]
    return "\n".join(blocks)
