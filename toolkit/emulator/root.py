"""The private root: an arm64 Python with runtimes under the toolkit's cache folder, where no package manager looks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.errors import MissingDependency
from toolkit.cache import cache_folder

__all__ = ["FACTS", "SCHEMA", "Root", "home", "installed_root"]

FACTS = "root.json"
"""Written last: what lies in the root, and where it is from."""

SCHEMA = "toolkit.emulator-root/1"


@dataclass(frozen=True, kw_only=True)
class Root:
    """Where programs of the board come from.

    Args:
        system: What QEMU takes for `/`.
        python: The interpreter in it.
        site: Its packages.
        versions: Of them, by name.
    """

    system: Path
    python: Path
    site: Path
    versions: Mapping[str, str]


def home() -> Path:
    """The folder of the root and of everything that its installation leaves."""
    return cache_folder() / "emulator"


def installed_root(folder: Path | None = None) -> Root:
    """The root as it was installed.

    Raises:
        MissingDependency: there is none, or an unfinished one.
    """
    folder = folder or home() / "arm64"
    try:
        facts: Mapping[str, Any] = json.loads((folder / FACTS).read_text("utf-8"))
        if facts["schema"] != SCHEMA:
            raise ValueError("of another version")
        system = folder / "system"
        return Root(
            system=system, python=system / facts["python"], site=folder / "site", versions=dict(facts["versions"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingDependency(
            f"no arm64 Python with the board's runtimes is installed under {folder.parent}",
            hint="toolkit doctor --install-emulator  (once; it downloads about 70 MB and touches no system package)",
        ) from error
