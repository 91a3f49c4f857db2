"""Write nested mappings as a flatbuffer, by the tables of the schema. Equal values give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.schema import FILE_IDENTIFIER, OPTIONS, TABLES

__all__ = ["pack"]

_ALIGNMENT_BYTES = 16
"""Kernels read weights where they lie in the file, with vector instructions."""

_VECTORS = {"[int32]": np.int32, "[int64]": np.int64, "[float32]": np.float32}
_OPTIONS_NAMED = {number: name for name, number in OPTIONS.items()}

Values = Mapping[str, Any]


def pack(model: Values) -> bytes:
    """The bytes of a file whose root is the table `Model` with these values."""
    return _Packer().file("Model", model)


class _Packer:
    """Children are written before their parent: a flatbuffer grows from its end."""

    def __init__(self) -> None:
        import flatbuffers

        self.builder = flatbuffers.Builder(1 << 16)
        self.vectors: dict[tuple[str, bytes], int] = {}

    def file(self, name: str, values: Values) -> bytes:
        self.builder.Finish(self.table(name, values), FILE_IDENTIFIER)
        return bytes(self.builder.Output())

    def table(self, name: str, values: Values) -> int:
        fields = TABLES.get(name, {})
        children = {key: self.child(fields[key].kind, value, values)
                    for key, value in values.items() if _is_nested(fields[key].kind)}  # fmt: skip
        self.builder.StartObject(max((field.slot + 1 for field in fields.values()), default=0))
        for key, value in values.items():
            slot, kind, default = fields[key]
            if key in children:
                self.builder.PrependUOffsetTRelativeSlot(slot, children[key], 0)
            else:
                getattr(self.builder, f"Prepend{kind.capitalize()}Slot")(slot, value, default)
        return int(self.builder.EndObject())

    def child(self, kind: str, value: Any, siblings: Values) -> int:
        if kind == "string":
            return int(self.builder.CreateSharedString(value))
        if kind == "bytes":
            return self.content(value)
        if kind == "options":
            return self.table(_OPTIONS_NAMED[siblings["builtin_options_type"]], value)
        if kind in _VECTORS:
            return self.vector(np.asarray(value, _VECTORS[kind]))
        if kind.startswith("["):
            return self.tables(kind[1:-1], value)
        return self.table(kind, value)

    def tables(self, name: str, rows: Sequence[Values]) -> int:
        offsets = [self.table(name, row) for row in rows]
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def vector(self, values: Array) -> int:
        """Equal vectors lie in the file once: zeros, shapes and scales repeat by the hundred."""
        key = (values.dtype.str, values.tobytes())
        if key not in self.vectors:
            self.vectors[key] = int(self.builder.CreateNumpyVector(values))
        return self.vectors[key]

    def content(self, data: bytes) -> int:
        self.builder.StartVector(1, len(data), _ALIGNMENT_BYTES)
        start = self.builder.head - len(data)
        self.builder.Bytes[start : self.builder.head] = data
        self.builder.head = start
        return int(self.builder.EndVector())


def _is_nested(kind: str) -> bool:
    return kind.startswith("[") or kind in ("string", "bytes", "options") or kind in TABLES
