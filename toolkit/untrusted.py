"""What a model file may contain before anything in it is loaded: data, never code.

Four formats can carry code. A `.pt` may be a pickle, or TorchScript, whose operators can write files. A `.pt2` may
hold pickled weights or sample inputs, which torch.export.load falls back to unpickling without restriction; operator
names, which it looks up as attributes of `torch`; and size expressions and guards, which it evaluates as Python. ONNX
external data may name any path.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from targets.errors import InvalidInput

__all__ = ["check_external_data", "check_pt2", "check_torchscript", "file_kind", "read_bytes"]

_TRUST = "only if you trust where it comes from, repeat with --trust"
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|quantized_decomposed)\.(?!from_file)[A-Za-z0-9_.]+"
    r"|_operator\.(abs|add|and_|eq|floordiv|ge|getitem|gt|le|lt|mod|mul|ne|neg|not_|or_|pow|sub|truediv)"
    r"|math\.[a-z0-9_]+|torch\._?sym_[a-z_]+"
)
_PT2_MEMBER = re.compile(
    r"models/[\w.-]+\.json|data/weights/(weight_\d+|[\w.-]+_weights_config\.json)"
    r"|data/constants/(tensor_\d+|[\w.-]+_constants_config\.json)|data/sample_inputs/[\w.-]+\.pt"
    r"|archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id|version"
)
_SCRIPT_CALL = re.compile(r"\b((?:torch|ops)(?:\.\w+)+)\(")
_SCRIPT_NAMESPACES = {"aten", "prim", "prims", "quantized", "torchvision"}
_TOUCHES_FILES = {"from_file", "load", "save", "open", "write", "system"}
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_SIZE_OF_INPUT = re.compile(r"L(\['\w+'\]|\[\d+\])+\.(size|stride)\(\)(\[\d+\])?")
_DECIMAL = re.compile(r"\d+\.\d+")
_PLAIN = re.compile(r"[A-Za-z0-9_+\-*/%(),<>=!&|~ ]*")
_WORDS = frozenset(
    "Add And CeilDiv CleanDiv Eq False FloatTrueDiv FloorDiv Ge Gt IntTrueDiv Integer Le Lt Max Min Mod "
    "ModularIndexing Mul Ne Not Or Pow PythonMod Rational ToFloat True TruncToInt and ceiling false floor "
    "int_oo not oo or true".split()
)
_SYMBOL_NAME = re.compile(r"[suzf]\d+|unbacked_\w+")


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InvalidInput: it is missing, a folder, or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"cannot read {path}: {error.strerror}", hint="check the path and its permissions"
        ) from error


def file_kind(path: Path) -> str:
    """What a model file holds, by content: onnx, torchscript, pt2, state_dict or pickle, or legacy_pickle.

    Raises:
        InvalidInput: the file cannot be read.
    """
    head = read_bytes(path)[:4]
    if head[:2] != b"PK":
        return "legacy_pickle" if head[:1] == b"\x80" else "onnx"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise InvalidInput(f"{path.name} is a damaged archive: {error}", hint="save or download it again") from error
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or any(name.startswith("models/") for name in inner) or path.suffix == ".pt2":
        return "pt2"
    if any(name.startswith("code/") for name in inner) or "constants.pkl" in inner:
        return "torchscript"
    return "pickle"


def check_pt2(path: Path) -> None:
    """Refuse a `.pt2` that could run code when it is loaded or run.

    Raises:
        InvalidInput: it holds pickles that weights-only loading refuses, or names that are not operators.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len({name.casefold() for name in names}) != len(names):
            raise InvalidInput(f"{path.name} holds two files of one name", hint=_TRUST)
        for name in names:
            inner = name.partition("/")[2]
            if not _PT2_MEMBER.fullmatch(inner):
                raise InvalidInput(
                    f"{path.name} holds {inner[:60]!r}, which a current torch.export.save does not write",
                    hint=f"save it again with torch 2.9 or later; {_TRUST}",
                )
            if inner.endswith(".pt"):
                _check_pickle(path, name, archive.read(name))
            elif inner.endswith("_config.json"):
                _check_payloads(path, _json(path, archive.read(name)))
            elif inner.startswith("models/"):
                _check_program(path, _json(path, archive.read(name)))


def check_torchscript(path: Path) -> None:
    """Refuse a TorchScript archive whose code calls operators that touch files, or that are not torch's own.

    Code runs when the archive is loaded (`__setstate__`), so its text is looked at before that.

    Raises:
        InvalidInput: it names such an operator.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.endswith(".py"):
                continue
            text = archive.read(name).decode("utf-8", "replace")
            for called in _SCRIPT_CALL.findall(text):
                *space, operator = called.split(".")
                if operator in _TOUCHES_FILES or (space[0] == "ops" and space[1] not in _SCRIPT_NAMESPACES):
                    raise InvalidInput(f"{path.name} calls {called}, which reaches beyond its tensors", hint=_TRUST)


def _json(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise InvalidInput(f"{path.name} is damaged: {error}", hint="save it again with torch.export.save") from error


def _check_pickle(path: Path, name: str, content: bytes) -> None:
    import pickle

    import torch

    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidInput(f"{path.name} holds a pickle that could run code ({name})", hint=_TRUST) from error


def _check_payloads(path: Path, config: Any) -> None:
    for key, value in _items(config):
        if (key == "use_pickle" and value) or (key == "path_name" and "custom_obj" in str(value)):
            raise InvalidInput(f"{path.name} stores tensors or objects as pickles, which could run code", hint=_TRUST)


def _check_program(path: Path, program: Any) -> None:
    for key, value in _items(program):
        if key == "guards_code" and not all(_is_arithmetic(str(guard)) for guard in value or []):
            raise InvalidInput(f"{path.name} carries a guard that is more than arithmetic on sizes", hint=_TRUST)
        if key == "expr_str" and not _is_arithmetic(str(value)):
            raise InvalidInput(f"{path.name} has a size that is not arithmetic: {str(value)[:60]!r}", hint=_TRUST)
        if key == "target" and isinstance(value, str) and "." in value and not _OPERATOR.fullmatch(value):
            raise InvalidInput(f"{path.name} calls {value[:60]!r}, which is not an operator", hint=_TRUST)


def _is_arithmetic(text: str) -> bool:
    """Only numbers, symbols, sizes of inputs and known functions of them."""
    for atom in (_SYMBOL, _SIZE_OF_INPUT, _DECIMAL):
        text = atom.sub("0", text)
    words = re.findall(r"[A-Za-z_]\w*", text)
    return bool(_PLAIN.fullmatch(text)) and all(w in _WORDS or _SYMBOL_NAME.fullmatch(w) for w in words)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _items(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _items(inner)


def check_external_data(model: Any, folder: Path) -> None:
    """Refuse an ONNX model whose external data lies outside `folder`.

    Raises:
        InvalidInput: a tensor names an absolute path, one that leaves the folder, a file that is not there, or bytes
            that the file does not have.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    root = folder.resolve()
    for tensor in (t for part in (model.graph, *model.functions) for t in _tensors(part)):
        if not uses_external_data(tensor):
            continue
        stored = ExternalDataInfo(tensor)
        location = stored.location
        target = (root / location).resolve()
        if Path(location).is_absolute() or not target.is_relative_to(root):
            raise InvalidInput(
                f"tensor {tensor.name!r} points outside the model's folder: {location}",
                hint="do not use this file unless you know who made it",
            )
        if not target.is_file():
            raise InvalidInput(
                f"tensor {tensor.name!r} wants the file {location}, which is not there",
                hint="keep the .onnx and its data files in one folder",
            )
        start, length, size = stored.offset or 0, stored.length or 0, target.stat().st_size
        if start < 0 or length < 0 or start + length > size:
            raise InvalidInput(
                f"tensor {tensor.name!r} wants {length} bytes from offset {start} of {location}, which has {size}",
                hint="the data file is cut off or belongs to another model: export or download both again",
            )


def _tensors(graph: Any) -> Iterator[Any]:
    """The tensors of a graph or function, and of the graphs within."""
    yield from getattr(graph, "initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)
