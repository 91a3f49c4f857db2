"""A folder with a program as one executable file, which unpacks itself fast: blocks of LZ4 behind a small program in C.

PyInstaller's own one file holds zlib streams, which take several times as long to expand. The sources lie in the
folder one_file/, and the layout of the file is told in its start.c.
"""

from __future__ import annotations

import ctypes
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

from targets.errors import ToolkitError
from toolkit.standalone.c_compiler import c_compiler, host_machine

__all__ = ["NAME", "Codec", "codec", "one_file"]

NAME = "TOOLKIT_RUNNER_FILE"
"""The variable in which a program that was unpacked finds the path of the file that it was in."""

_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-Wall", "-Wextra")
_MAGIC = b"TOOLKIT1"
_LONGEST_BLOCK = 1 << 20  # of lz4.h
_ALIGNMENT = 16
_PLAIN, _LZ4 = 1, 0
_LONGEST_S = 300
_Tell = Callable[[float], None]


@dataclass(frozen=True)
class Codec:
    """LZ4 blocks, through the C that is shipped. A block has 1 MiB at most."""

    library: ctypes.CDLL

    def compress(self, block: bytes) -> bytes:
        """Empty where it would not become shorter."""
        return self._through("lz4_compress", block, len(block))

    def expand(self, block: bytes, size: int) -> bytes:
        """Empty where the block is damaged or holds more than `size` bytes."""
        return self._through("lz4_expand", block, size)

    def sum(self, content: bytes) -> int:
        function = self.library.lz4_sum
        function.restype = ctypes.c_uint64
        return int(function(content, ctypes.c_size_t(len(content))))

    def _through(self, name: str, block: bytes, room: int) -> bytes:
        function = getattr(self.library, name)
        function.restype = ctypes.c_size_t
        made = ctypes.create_string_buffer(max(1, room))
        size = function(block, ctypes.c_size_t(len(block)), made, ctypes.c_size_t(room))
        return ctypes.string_at(made, int(size))


@contextmanager
def codec() -> Iterator[Codec]:
    """The codec, compiled for this machine.

    Raises:
        MissingDependency: no C compiler is installed.
    """
    with tempfile.TemporaryDirectory(prefix="toolkit-lz4-") as folder:
        library = Path(folder, "lz4.so")
        _compile(library, "compress.c", "expand.c", "-shared", "-fPIC")
        yield Codec(ctypes.CDLL(str(library)))


def one_file(folder: Path, program: str, target: Path, progress: _Tell = lambda share: None) -> Path:
    """Write `folder`, whose file `program` is run, as the executable `target`. Equal folders give equal bytes.

    Raises:
        MissingDependency: no C compiler is installed.
        OSError: it cannot be written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if _has_content(path))
    names.sort(key=lambda name: name != program)
    _compile(target, "start.c", "expand.c", "-s", "-lpthread")
    with codec() as lz4, target.open("r+b") as out:
        out.seek(0, 2)
        table = _write_files(out, folder, names, lz4, progress)
        out.write(b"\0" * (-out.tell() % _ALIGNMENT))
        start, content = out.tell(), table.content(names)
        tail = (len(names), len(table.blocks), start, len(content), lz4.sum(content), table.expanded, _MAGIC)
        out.write(content + struct.pack("<6Q8s", *tail))
    target.chmod(0o755)
    return target


@dataclass
class _Table:
    """Lines as start.c reads them: of blocks and of files; `expanded` are the bytes of all of these."""

    blocks: list[bytes] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    expanded: int = 0

    def content(self, names: Sequence[str]) -> bytes:
        return b"".join([*self.blocks, *self.files, *(name.encode() + b"\0" for name in names)])


def _has_content(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _write_files(out: BinaryIO, folder: Path, names: Sequence[str], lz4: Codec, progress: _Tell) -> _Table:
    table = _Table()
    whole = max(1, sum((folder / name).lstat().st_size for name in names))
    for number, name in enumerate(names):
        path = folder / name
        mode = path.lstat().st_mode
        content = str(path.readlink()).encode() if stat.S_ISLNK(mode) else path.read_bytes()
        places = range(0, len(content), _LONGEST_BLOCK)
        for place in places:
            block = content[place : place + _LONGEST_BLOCK]
            short = b"" if stat.S_ISLNK(mode) else lz4.compress(block)
            kept = short or block
            line = (out.tell(), place, lz4.sum(kept), len(kept), len(block), number, _LZ4 if short else _PLAIN)
            table.blocks.append(struct.pack("<3Q4I", *line))
            out.write(kept)
            table.expanded += len(block)
            progress(table.expanded / whole)
        table.files.append(struct.pack("<2I", mode, len(places)))
    return table


def _compile(target: Path, *words: str) -> None:
    """The sources among `words`, with the others as options."""
    command = [*c_compiler(host_machine()), *_FLAGS]
    with tempfile.TemporaryDirectory(prefix="toolkit-c-") as folder:
        for source in (files("toolkit.standalone") / "one_file").iterdir():
            Path(folder, source.name).write_bytes(source.read_bytes())
        done = subprocess.run(
            [*command, *words, "-o", str(target.absolute())], cwd=folder, capture_output=True, text=True,
            timeout=_LONGEST_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
        raise ToolkitError(
            f"the runner's beginning in C: {lines[0] if lines else done.stderr.strip()[-300:]}",
            hint="install a whole toolchain: pip install ziglang",
        )
