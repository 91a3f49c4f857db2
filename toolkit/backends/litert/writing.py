"""Put a finished draft into the file: numbers for tensors, buffers and operator codes, and the signature beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from toolkit.backends.litert.flatbuffer import pack
from toolkit.backends.litert.schema import OPERATORS, OPTIONS, TYPES
from toolkit.backends.litert.tensors import Draft, Operator, Tensor
from toolkit.backends.litert.versions import version_of

__all__ = ["EDGES_KEY", "SIGNATURE_KEY", "file_bytes"]

SIGNATURE_KEY = "serving_default"
EDGES_KEY = "toolkit.edges"
"""Metadata that says how the file's own inputs and outputs are made of those of the model's signature."""


def file_bytes(draft: Draft, name: str, edges: Mapping[str, Any]) -> bytes:
    """The content of a .tflite."""
    file = _File()
    number, tensors = file.subgraph(draft, name)
    assert number == 0
    maps = [[{"name": key, "tensor_index": tensors.number(t)} for key, t in side.items()]
            for side in (draft.inputs, draft.outputs)]  # fmt: skip
    described = json.dumps(edges, sort_keys=True, separators=(",", ":")).encode()
    metadata = [{"name": EDGES_KEY, "buffer": file.buffer(described)}]
    return pack(
        {
            "version": 3,
            "operator_codes": file.codes,
            "subgraphs": file.subgraphs,
            "description": "written by toolkit",
            "buffers": [{"data": content} if content else {} for content in file.buffers],
            "metadata": metadata,
            "signature_defs": [{"inputs": maps[0], "outputs": maps[1], "signature_key": SIGNATURE_KEY}],
        }
    )


class _File:
    """The numbered lists of a file, each entry once: networks, operator codes, buffers."""

    def __init__(self) -> None:
        self.subgraphs: list[dict[str, Any]] = []
        self.codes: list[dict[str, Any]] = []
        self.buffers: list[bytes] = [b""]  # the first is that of tensors without values
        self._codes: dict[tuple[str, int], int] = {}
        self._buffers: dict[bytes, int] = {}

    def subgraph(self, draft: Draft, name: str) -> tuple[int, _Tensors]:
        """The number of a network, which is written before those of its branches, and the numbers of its tensors."""
        number, tensors = len(self.subgraphs), _Tensors(self)
        row: dict[str, Any] = {}
        self.subgraphs.append(row)
        operators = [self.operator(operator, tensors, name) for operator in draft.operators]
        ends = [[tensors.number(t) for t in side.values()] for side in (draft.inputs, draft.outputs)]
        row |= {"tensors": tensors.rows, "inputs": ends[0], "outputs": ends[1], "operators": operators, "name": name}
        return number, tensors

    def operator(self, operator: Operator, tensors: _Tensors, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {
            "opcode_index": self.code(operator.code, version_of(operator)),
            "inputs": [-1 if t is None else tensors.number(t) for t in operator.inputs],
            "outputs": [tensors.number(t) for t in operator.outputs],
        }
        bodies = {key: self.subgraph(body, f"{name}/{key}")[0] for key, body in operator.bodies.items()}
        if table := OPERATORS[operator.code][1]:
            row |= {"builtin_options_type": OPTIONS[table], "builtin_options": {**operator.options, **bodies}}
        return row

    def code(self, code: str, version: int) -> int:
        if (code, version) not in self._codes:
            self._codes[code, version] = len(self.codes)
            number = OPERATORS[code][0]
            self.codes.append({"deprecated_builtin_code": min(number, 127), "version": version, "builtin_code": number})
        return self._codes[code, version]

    def buffer(self, content: bytes) -> int:
        if content not in self._buffers:
            self._buffers[content] = len(self.buffers)
            self.buffers.append(content)
        return self._buffers[content]


class _Tensors:
    """The tensors of one network, each once; equal constants are one tensor."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self.rows: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Tensor] = []
        self._constants: dict[Any, int] = {}

    def number(self, tensor: Tensor) -> int:
        if id(tensor) not in self._numbers:
            self._kept.append(tensor)
            self._numbers[id(tensor)] = self._new(tensor)
        return self._numbers[id(tensor)]

    def _new(self, tensor: Tensor) -> int:
        buffer = 0 if tensor.data is None else self.file.buffer(_stored(tensor))
        key = (tensor.shape, tensor.dtype, buffer, tensor.quantization)
        if buffer and key in self._constants:
            return self._constants[key]
        row: dict[str, Any] = {"shape": tensor.shape, "type": TYPES[tensor.dtype], "buffer": buffer}
        row |= {"name": tensor.name, "has_rank": True}
        if (q := tensor.quantization) is not None:
            row["quantization"] = {"scale": q.scale, "zero_point": q.zero_point, "quantized_dimension": q.axis}
        self.rows.append(row)
        self._constants[key] = len(self.rows) - 1
        return len(self.rows) - 1


def _stored(tensor: Tensor) -> bytes:
    assert tensor.data is not None
    return np.ascontiguousarray(tensor.data).astype(tensor.dtype).tobytes()
