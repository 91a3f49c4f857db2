"""A table of measurements: a line a network, with the ONNX file that was measured. Other stacks' lines are set aside.

The columns are those of published tables: `path` and `latency_ms` are needed; `model`, `family`, `input_shape`,
`device`, `device_variant`, `runtime`, `precision`, `threads` and `batch` are read where they are there, and others are
left alone. `latency_ms` is the time of the whole batch.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from targets.errors import InvalidInput
from targets.stack import Stack
from targets.target import Target

__all__ = ["COLUMNS", "Row", "Rows", "read_rows", "read_table", "split_version"]

COLUMNS = (
    "id", "device", "device_variant", "runtime", "precision", "threads", "batch", "model", "family", "input_shape",
    "latency_ms", "fps", "source_title", "source_ref", "date", "notes", "path",
)  # fmt: skip
"""Of a table that is written here: those of `measured.csv`, with a family and the file."""

_NEEDED = ("path", "latency_ms")
_SETTING = ("device", "device_variant", "runtime", "threads")
_VERSION = re.compile(r"(.*?)\s+v?(\d\S*)")
_HINT = "one network a line; see `toolkit bench --help`, which writes such a table"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured network. `latency_s` is that of one inference of the batch; `path` exists."""

    line: int
    model: str
    family: str
    path: Path
    input_shape: str
    latency_s: float


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a table says of one stack. `setting` is where all of it was measured, by column; empty where not said.

    `set_aside` are lines, with the reason, that are another stack's.
    """

    file: Path
    rows: tuple[Row, ...]
    setting: Mapping[str, str]
    set_aside: tuple[tuple[int, str], ...] = ()


def read_rows(file: Path, target: Target, stack: Stack) -> Rows:
    """The rows of `file` that were measured on `stack`, or on the user's own device of that kind.

    Raises:
        InvalidInput: the table cannot be read; a line is wrong, or there twice; the lines are of several settings.
    """
    kept, aside = [], []
    for line, cells in read_table(file, _NEEDED):
        reason = _foreign(cells, target, stack)
        aside.append((line, reason)) if reason else kept.append((line, cells))
    setting = _one_setting(file, [cells for _, cells in kept])
    rows = tuple(_row(file, line, cells, stack) for line, cells in kept)
    _check_single(file, rows)
    return Rows(file=file, rows=rows, setting=setting, set_aside=tuple(aside))


def read_table(file: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Every line with its number, and its cells by column.

    Raises:
        InvalidInput: it is no table, a column of `needed` is missing, or a line has more or fewer cells than columns.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = reader.fieldnames or []
            if missing := [name for name in needed if name not in columns]:
                found = ", ".join(columns)[:200] or "none"
                raise InvalidInput(f"{file.name} lacks the column {' and '.join(missing)}; it has {found}", hint=_HINT)
            table = [(reader.line_num, cells) for cells in reader]
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}", hint="check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{file.name} is not a table of text: {error}", hint=_HINT) from error
    for line, cells in table:
        if None in cells or None in cells.values():
            raise _wrong(file, line, f"it does not have {len(columns)} cells, as the first line has")
    return [(line, {name: text.strip() for name, text in cells.items()}) for line, cells in table]


def split_version(runtime: str) -> tuple[str, str]:
    """`TFLite 2.7.1` as its name and its version; the version is empty where none ends it."""
    match = _VERSION.fullmatch(runtime)
    return (match[1], match[2]) if match else (runtime, "")


def _foreign(cells: Mapping[str, str], target: Target, stack: Stack) -> str:
    """Why the line is another stack's, or an empty string. What a line does not say is taken to be the stack's."""
    published = stack.measured_as
    runtimes = {split_version(published.get("runtime", ""))[0], stack.runtime, published.get("runtime", "")}
    threads = published.get("threads") or ("" if stack.threads is None else str(stack.threads))
    allowed: Mapping[str, tuple[Callable[[str], str], set[str]]] = {
        "device": (str, {published.get("device", ""), target.name, target.title}),
        "runtime": (lambda text: text if text in runtimes else split_version(text)[0], runtimes),
        "precision": (str, {stack.precision}),
        "threads": (str, {threads}),
        "batch": (str, {published.get("batch") or str(stack.batch)}),
    }
    for column, (reading, known) in allowed.items():
        said, names = cells.get(column, ""), known - {""}
        if said and names and reading(said).casefold() not in {name.casefold() for name in names}:
            return f"{column} {said!r}, not {' or '.join(sorted(map(repr, names)))}"
    return ""


def _one_setting(file: Path, table: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Where the rows were measured: one device, runtime, version and number of threads. They are never pooled."""
    settings = {tuple(cells.get(column, "") for column in _SETTING) for cells in table}
    if len(settings) > 1:
        listed = "; ".join(", ".join(filter(None, setting)) or "not said" for setting in sorted(settings)[:4])
        raise InvalidInput(
            f"{file.name} holds rows of {len(settings)} settings: {listed}",
            hint="a latency belongs to one device, runtime, version and number of threads: keep the rows of one",
        )
    return dict(zip(_SETTING, next(iter(settings), ("",) * len(_SETTING)), strict=True))


def _row(file: Path, line: int, cells: Mapping[str, str], stack: Stack) -> Row:
    path = _inside(file, line, cells["path"])
    model = cells.get("model") or path.stem
    return Row(
        line=line,
        model=model,
        family=cells.get("family") or _family(model),
        path=path,
        input_shape=cells.get("input_shape", ""),
        latency_s=_latency_s(file, line, cells["latency_ms"]) / stack.batch,
    )


def _latency_s(file: Path, line: int, text: str) -> float:
    try:
        value = float(text) / 1e3
    except ValueError:
        raise _wrong(file, line, f"latency_ms {text!r} is not a number") from None
    if not isfinite(value) or value <= 0:
        raise _wrong(file, line, f"latency_ms {text} is not more than zero" if value <= 0 else f"latency_ms is {text}")
    return value


def _inside(file: Path, line: int, text: str) -> Path:
    """The model's file, which lies in the table's folder or below it."""
    folder = file.resolve().parent
    path = (folder / text).resolve()
    if not text or not path.is_relative_to(folder):
        raise _wrong(file, line, f"path {text!r} leaves the table's folder" if text else "its path is empty")
    if not path.is_file():
        raise _wrong(file, line, f"there is no file {text}")
    return path


def _family(model: str) -> str:
    """The first word of a name: `resnet` of `torchvision:resnet18`."""
    word = re.search(r"[A-Za-z]+", model.rpartition(":")[2])
    return word[0].lower() if word else model


def _check_single(file: Path, rows: Sequence[Row]) -> None:
    lines: dict[tuple[Path, str], int] = {}
    for row in rows:
        first = lines.setdefault((row.path, row.input_shape), row.line)
        if first != row.line:
            raise _wrong(file, row.line, f"{row.path.name} at this shape is in line {first} already: keep one of them")


def _wrong(file: Path, line: int, problem: str) -> InvalidInput:
    return InvalidInput(f"{file.name}, line {line}: {problem}", hint=f"correct the line: {_HINT}")
