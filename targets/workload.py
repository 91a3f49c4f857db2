"""The work a network is: operators as the stack groups them, with their arithmetic and their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["ITEM_BYTES", "Operator", "Workload"]

ITEM_BYTES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4,
    "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One unit of dispatch: an operator and what the runtime folds into it.

    `reads` and `writes` name activation tensors of the workload; `source` is the line of the user's Python, where
    the exporter recorded it.
    """

    name: str
    op_type: str
    op_class: str
    dtype: str
    macs: int
    input_bytes: int
    output_bytes: int
    weight_bytes: int
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    source: str = ""
    rank: int = 0
    static: bool = True

    @property
    def activation_bytes(self) -> int:
        return self.input_bytes + self.output_bytes


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The operators of a graph in the order they run, and the size of each activation tensor between them."""

    name: str
    operators: tuple[Operator, ...]
    tensor_bytes: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.operators)

    @property
    def weight_bytes(self) -> int:
        return sum(op.weight_bytes for op in self.operators)

    @property
    def is_float32(self) -> bool:
        """No operator of lower precision: the graph has not been quantized or cast."""
        return not any(op.dtype in ("int8", "uint8", "float16") for op in self.operators)

    def at_precision(self, dtype: str) -> Workload:
        """The same float32 network once its weights and activations are stored as `dtype`."""
        ratio = ITEM_BYTES["float32"] // ITEM_BYTES[dtype]
        if ratio == 1:
            return self
        return replace(
            self,
            operators=tuple(_narrow(op, dtype, ratio) for op in self.operators),
            tensor_bytes={name: -(-size // ratio) for name, size in self.tensor_bytes.items()},
        )


def _narrow(op: Operator, dtype: str, ratio: int) -> Operator:
    if op.dtype != "float32":
        return op
    return replace(
        op,
        dtype=dtype,
        input_bytes=-(-op.input_bytes // ratio),
        output_bytes=-(-op.output_bytes // ratio),
        weight_bytes=-(-op.weight_bytes // ratio),
    )
