"""Is this installation whole? Looks at metadata and folders; imports nothing heavy."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from targets.errors import MissingDependency
from toolkit.cache import cache_folder

__all__ = ["Finding", "examine"]

DISTRIBUTION = "edge-toolkit"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    required: bool
    found: str
    hint: str = ""


def examine() -> list[Finding]:
    """Every check, required ones first."""
    return [*_dependencies(), _own_packages(), _cache(), _integer_instructions(), *_extras(), *_emulator()]


def _dependencies() -> list[Finding]:
    from packaging.requirements import Requirement

    try:
        stated = [Requirement(line) for line in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:
        return [Finding(DISTRIBUTION, False, True, "not installed", "pip install -e . in the repository")]
    return [_dependency(r) for r in stated if r.marker is None or r.marker.evaluate({"extra": ""})]


def _dependency(requirement: object) -> Finding:
    from packaging.requirements import Requirement

    assert isinstance(requirement, Requirement)
    try:
        have = version(requirement.name)
    except PackageNotFoundError:
        return Finding(requirement.name, False, True, "not installed", f"pip install '{requirement}'")
    ok = requirement.specifier.contains(have, prereleases=True)
    return Finding(requirement.name, ok, True, have, "" if ok else f"pip install '{requirement}'")


def _own_packages() -> Finding:
    """Another distribution is called `kernels` too; pip lets the two overwrite each other without a word."""
    home = Path(__file__).parents[1]
    strangers = []
    for name in ("kernels", "passes", "targets"):
        spec = find_spec(name)
        places = [Path(p).parent for p in (spec.submodule_search_locations or [])] if spec else []
        if home not in places:
            strangers.append(name)
    found = f"under {home}" if not strangers else f"{', '.join(strangers)} belong to another distribution"
    return Finding("own packages", not strangers, True, found, "install the toolkit in an environment of its own")


def _cache() -> Finding:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(
            "cache folder", False, True, f"{folder}: {error.strerror}", "set TOOLKIT_CACHE to a folder you may write"
        )
    return Finding("cache folder", True, True, str(folder))


def _integer_instructions() -> Finding:
    """Without them, int8 on this processor saturates sums of unsigned by signed products."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return Finding("VNNI", True, False, "unknown on this system")
    has = "avx512_vnni" in flags or "avx_vnni" in flags
    return Finding(
        "VNNI", has, False, "yes" if has else "no", "int8 answers here may differ from those of a processor that has it"
    )


def _extras() -> list[Finding]:
    names = {"PIL": "images", "triton": "gpu", "plotly": "plots", "ray": "search", "torch_pruning": "prune"}
    return [
        Finding(module, find_spec(module) is not None, False, "installed" if find_spec(module) else "not installed",
                f"pip install '{DISTRIBUTION}[{extra}]'")
        for module, extra in sorted(names.items())
    ]  # fmt: skip


def _emulator() -> list[Finding]:
    """What `toolkit verify --emulate` needs: QEMU for a board's processor, and for networks a Python of its kind."""
    from toolkit.emulator.root import installed_root

    program = which("qemu-aarch64-static") or which("qemu-aarch64")
    qemu = Finding("QEMU (arm64)", bool(program), False, program or "not installed", "apt-get install qemu-user-static")
    try:
        kept = installed_root().versions
    except MissingDependency as error:
        return [qemu, Finding("emulator's root", False, False, "not installed", error.hint)]
    return [qemu, Finding("emulator's root", True, False, ", ".join(f"{name} {v}" for name, v in kept.items()))]
