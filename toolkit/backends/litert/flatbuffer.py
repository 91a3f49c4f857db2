"""Write nested mappings as a flatbuffer, by the tables of the schema. Equal values give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backends.litert.schema import FILE_IDENTIFIER, OPTIONS, TABLES

if TYPE_CHECKING:
    import flatbuffers

__all__ = ["pack"]

_ALIGNMENT_BYTES = 16
"""Kernels read weights where they lie in the file, with vector instructions."""

_VECTORS = {"[int32]": np.int32, "[int64]": np.int64, "[float32]": np.float32}

Values = Mapping[str, Any]


def pack(model: Values) -> bytes:
    """The bytes of a file whose root is the table `Model` with these values."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(_table(builder, "Model", model), FILE_IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, name: str, values: Values) -> int:
    """Children are written before their parent: a flatbuffer grows from its end."""
    fields = TABLES.get(name, {})
    children = {
        key: _child(builder, fields[key].kind, value, values) for key, value in values.items() if _nested(name, key)
    }
    builder.StartObject(max((field.slot + 1 for field in fields.values()), default=0))
    for key, value in values.items():
        slot, kind, default = fields[key]
        if key in children:
            builder.PrependUOffsetTRelativeSlot(slot, children[key], 0)
        else:
            getattr(builder, f"Prepend{kind.capitalize()}Slot")(slot, value, default)
    return int(builder.EndObject())


def _nested(table: str, key: str) -> bool:
    kind = TABLES[table][key].kind
    return kind.startswith("[") or kind in ("string", "bytes", "options") or kind in TABLES


def _child(builder: flatbuffers.Builder, kind: str, value: Any, siblings: Values) -> int:
    if kind == "string":
        return int(builder.CreateString(value))
    if kind == "bytes":
        return _aligned(builder, value)
    if kind == "options":
        return _table(builder, _options_named(siblings["builtin_options_type"]), value)
    if kind in _VECTORS:
        return int(builder.CreateNumpyVector(np.asarray(value, _VECTORS[kind])))
    if kind.startswith("["):
        return _tables(builder, kind[1:-1], value)
    return _table(builder, kind, value)


def _tables(builder: flatbuffers.Builder, name: str, rows: Sequence[Values]) -> int:
    offsets = [_table(builder, name, row) for row in rows]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _aligned(builder: flatbuffers.Builder, content: bytes) -> int:
    builder.StartVector(1, len(content), _ALIGNMENT_BYTES)
    start = builder.head - len(content)
    builder.Bytes[start : builder.head] = content
    builder.head = start
    return int(builder.EndVector())


def _options_named(number: int) -> str:
    return next(name for name, value in OPTIONS.items() if value == number)
