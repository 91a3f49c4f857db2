"""Google's compiler for the Edge TPU, where the user has it, and what its log says of each operator."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from targets.errors import InvalidInput

__all__ = ["COMPILER", "ON_CHIP", "Mapped", "Partition", "compile_for_edgetpu", "parse_log", "write_partition"]

COMPILER = "edgetpu_compiler"
_LONGEST_S = 600
_ROW = re.compile(r"^([A-Z][A-Z0-9_]+)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)
ON_CHIP = "Mapped to Edge TPU"


@dataclass(frozen=True)
class Mapped:
    """`count` operators of one kind, and the compiler's word on where they run and why."""

    operator: str
    count: int
    status: str


@dataclass(frozen=True)
class Partition:
    """Where the compiler put a network's operators."""

    compiler: str
    on_chip: int
    on_host: int
    operators: tuple[Mapped, ...]


def compile_for_edgetpu(model: Path) -> Path | None:
    """Compile `model` beside itself, with its partition; None where the compiler is not on the path.

    Raises:
        InvalidInput: it refuses the model, with its own words.
    """
    program = shutil.which(COMPILER)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--show_operations", "--out_dir", str(model.parent), str(model)],
            capture_output=True, text=True, timeout=_LONGEST_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidInput(f"{COMPILER} failed: {error}", hint="run it by hand on model.tflite") from error
    compiled, log = (model.with_name(f"{model.stem}_edgetpu{suffix}") for suffix in (".tflite", ".log"))
    if done.returncode or not compiled.is_file():
        words = " ".join((done.stderr or done.stdout).split())[-300:]
        raise InvalidInput(f"{COMPILER} refuses the model: {words}", hint=f"run it by hand: {COMPILER} -s model.tflite")
    said = log.read_text("utf-8", errors="replace") if log.is_file() else done.stdout
    log.unlink(missing_ok=True)  # it holds times and paths; what it says is kept
    write_partition(model.parent, parse_log(said if _ROW.search(said) else done.stdout))
    return compiled


def write_partition(folder: Path, partition: Partition) -> None:
    """partition.json"""
    (folder / "partition.json").write_text(json.dumps(asdict(partition), indent=2) + "\n", "utf-8")


def parse_log(text: str) -> Partition:
    """The table of operators in the compiler's log.

    Raises:
        InvalidInput: there is none.
    """
    rows = tuple(Mapped(name, int(count), status) for name, count, status in _ROW.findall(text))
    if not rows:
        raise InvalidInput(f"{COMPILER}'s log holds no table of operators", hint="run it by hand with -s")
    version = re.search(r"Edge TPU Compiler version (\S+)", text)
    on_chip = sum(row.count for row in rows if row.status == ON_CHIP)
    return Partition(version[1] if version else "", on_chip, sum(row.count for row in rows) - on_chip, rows)
