"""Packages of another architecture through the system's own apt, with lists, cache and package state of our own."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.errors import InvalidInput, MissingDependency

__all__ = ["Apt", "unpack"]

_OWN = re.compile(r"^(APT::(Architectures?|Sandbox|Update|Default-Release)|Binary|DPkg|Dir)\b", re.IGNORECASE)
"""What we set ourselves, and commands that the system's apt would run afterwards on its own state."""

_URI = re.compile(r"^'[^']*' (\S+) (\d+) SHA256:([0-9a-f]{64})$")
_HINT = "name a source that holds {} packages in /etc/apt, and see that it can be reached"


@dataclass(frozen=True)
class Apt:
    """apt with `folder` for its state; what it downloaded stays there, so that a killed download goes on.

    Sources, keys and proxies are the system's.
    """

    folder: Path
    architecture: str = "arm64"

    @property
    def archives(self) -> Path:
        return self.folder / "cache" / "archives"

    def update(self) -> None:
        """Fetch the lists of packages.

        Raises:
            MissingDependency: apt is not here, or its sources cannot be reached.
        """
        self._prepare()
        self._run("update")

    def fetch(self, names: Sequence[str], tell: Callable[[float], None]) -> list[Path]:
        """Download the packages `names` and all that they depend on, checked by the hashes of the signed lists.

        Raises:
            MissingDependency: the sources do not hold a package.
            InvalidInput: a file is not what the lists say, even fetched again.
        """
        wanted = self._hashes(names)
        self._discard(wanted)
        self._run("install", "--download-only", "--yes", "--no-install-recommends", *names)
        tell(0.9)
        if wrong := self._discard(wanted):
            raise InvalidInput(f"{wrong[0]} is not the file that apt's lists describe", hint="try again later")
        return [self.archives / name for name in sorted(wanted)]

    def _hashes(self, names: Sequence[str]) -> dict[str, str]:
        """SHA-256 of every file, whether or not it has been downloaded."""
        nothing = self.folder / "empty"
        (nothing / "partial").mkdir(parents=True, exist_ok=True)
        words = ("-o", f"Dir::Cache::archives={nothing}/", "install", "--print-uris", "--no-install-recommends")
        lines = self._run(*words, *names).splitlines()
        found = {row[1]: row[3] for row in map(_URI.match, lines) if row}
        if not found:
            raise MissingDependency(
                f"apt names no {self.architecture} packages with hashes", hint=_HINT.format(self.architecture)
            )
        return found

    def _discard(self, wanted: Mapping[str, str]) -> list[str]:
        """Remove downloaded files that are not those wanted."""
        wrong = []
        for name, digest in wanted.items():
            file = self.archives / name
            if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                file.unlink()
                wrong.append(name)
        return wrong

    def _prepare(self) -> None:
        for path in ("state/lists/partial", "cache/archives/partial", "nothing"):
            (self.folder / path).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        kept = [line for line in _answer("apt-config", "dump").splitlines() if not _OWN.match(line)]
        (self.folder / "apt.conf").write_text("\n".join([*kept, *self._settings()]) + "\n", "utf-8")

    def _settings(self) -> list[str]:
        ours = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",  # the folder may be closed to apt's own user
            "Acquire::ForceHash": "SHA256",
            "Acquire::Languages": "none",
            "Dir::State": f"{self.folder}/state",
            "Dir::State::status": f"{self.folder}/status",
            "Dir::Cache": f"{self.folder}/cache",
            "Dir::Log": f"{self.folder}/log",
            "Dir::Etc::main": "/dev/null",  # its content is above, without the commands
            "Dir::Etc::parts": f"{self.folder}/nothing",
        }
        return [f'{key} "{value}";' for key, value in ours.items()]

    def _run(self, *words: str) -> str:
        return _answer("apt-get", "--quiet=2", *words, config=self.folder / "apt.conf", wants=self.architecture)


def unpack(packages: Sequence[Path], folder: Path, tell: Callable[[float], None]) -> None:
    """The files of `packages` into `folder`, without their scripts, documentation and translations.

    Raises:
        MissingDependency: dpkg is not here.
        InvalidInput: a package is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for done, package in enumerate(packages):
        _answer("dpkg-deb", "--extract", str(package), str(folder))
        tell((done + 1) / len(packages))
    for name in ("doc", "locale", "man"):
        shutil.rmtree(folder / "usr" / "share" / name, ignore_errors=True)
    for name in ("bin", "lib", "sbin"):  # where they are one with those under /usr, no package says so but the system's
        if not (folder / name).exists():
            (folder / name).symlink_to(f"usr/{name}")


def _answer(*words: str, config: Path | None = None, wants: str = "") -> str:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    if config:
        environment["APT_CONFIG"] = str(config)
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise MissingDependency(
            f"there is no {words[0]} on this system",
            hint="install the emulator's root on Debian, Ubuntu or a system made from them",
        ) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"it ended with {done.returncode}"]
        first = next((line for line in said if line.startswith("E:")), said[-1])
        if config:
            raise MissingDependency(f"apt: {first.removeprefix('E: ')}", hint=_HINT.format(wants))
        raise InvalidInput(f"{words[0]}: {first}", hint="run the command again; what is damaged is fetched again")
    return done.stdout
