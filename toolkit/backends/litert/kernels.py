"""Element types that LiteRT's kernels compute in, beside int8 with scales; others end the process, not the call.

Source: the kernels of LiteRT 2.3, tensorflow/lite/kernels/*.cc, their checks of types; oldest runtimes take fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit.backends.litert.tensors import Tensor

__all__ = ["refused_type"]

_FLOATS = frozenset({"float32"})
_NUMBERS = _FLOATS | {"int32", "int64"}
_TRUTHS = frozenset({"bool"})
_MOVED = _NUMBERS | _TRUTHS | {"int8", "uint8"}

_TYPES: Mapping[str, frozenset[str]] = {
    **dict.fromkeys("ADD SUB MUL SUM MAXIMUM MINIMUM REDUCE_MAX REDUCE_MIN REDUCE_PROD MEAN".split(), _NUMBERS),
    **dict.fromkeys("GREATER GREATER_EQUAL LESS LESS_EQUAL".split(), _NUMBERS),
    **dict.fromkeys("LOGICAL_AND LOGICAL_OR LOGICAL_NOT".split(), _TRUTHS),
    **dict.fromkeys("CONCATENATION GATHER SLICE STRIDED_SLICE SPLIT SPLIT_V RESHAPE TRANSPOSE".split(), _MOVED),
    **dict.fromkeys("ARG_MAX ARG_MIN".split(), _FLOATS | {"int32"}),
    **dict.fromkeys("PAD PADV2 MIRROR_PAD BROADCAST_TO".split(), _NUMBERS),
    **dict.fromkeys("DIV POW".split(), _FLOATS | {"int32"}),
    "ABS": _FLOATS | {"int32"},
    "CAST": _MOVED,
    "DYNAMIC_UPDATE_SLICE": _MOVED,
    "DEQUANTIZE": frozenset({"float16"}),
    "EQUAL": _NUMBERS | _TRUTHS,
    "IF": _MOVED,
    "NEG": _NUMBERS,
    "SELECT_V2": _NUMBERS | _TRUTHS,
    "TILE": _NUMBERS | _TRUTHS,
}


def refused_type(code: str, inputs: Sequence[Tensor | None]) -> str:
    """The first type among `inputs` that the kernel does not take; empty where it takes them all."""
    types = _TYPES.get(code, _FLOATS)
    plain = [t.dtype for t in inputs if t is not None and t.quantization is None and not _says_where(t)]
    return next((dtype for dtype in plain if dtype not in types), "")


def _says_where(tensor: Tensor) -> bool:
    """Whether a constant gives sizes, axes or positions, which every kernel takes as int32."""
    return tensor.data is not None and tensor.dtype == "int32"
