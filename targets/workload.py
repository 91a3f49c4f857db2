"""The work a network is: operators as the stack groups them, with their arithmetic and their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from targets.operators import MAC_CLASSES, NOTHING, Product

__all__ = ["ITEM_BYTES", "Operator", "Workload"]

ITEM_BYTES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4,
    "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip


_LOWER = frozenset({"int8", "uint8", "float16", "bfloat16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One unit of dispatch: an operator and what the runtime folds into it.

    `reads` and `writes` name activation tensors of the workload; `module` and `source` are the part of the user's
    network and the line of their Python, where the exporter recorded them. `product` and bytes are those of one run; an
    inference makes `repeats` of them on average: several inside a loop, less than one inside a branch that some samples
    take. `kept_weight_bytes` of the weights are no float32, and a lower precision leaves them as they are.
    """

    name: str
    op_type: str
    op_class: str
    dtype: str
    input_bytes: int
    output_bytes: int
    weight_bytes: int
    kept_weight_bytes: int = 0
    product: Product = NOTHING
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    module: str = ""
    source: str = ""
    rank: int = 0
    static: bool = True
    repeats: float = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 0 for operators that are priced by their bytes alone."""
        return self.product.elements if self.op_class in MAC_CLASSES else 0

    @property
    def activation_bytes(self) -> int:
        return self.input_bytes + self.output_bytes


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The operators of a graph in the order they run, and the size of each activation tensor between them.

    `float_tensors` are the activations that are float32 now, and would shrink in a lower precision;
    `shared_weight_bytes` are counted by several operators but stored once, less those that no operator counts: of a
    branch that is not taken, or of a table of which a part is read. `shared_kept_bytes` of them are no float32.
    `branches` says what the shares of branches were counted on, where they were.
    """

    name: str
    operators: tuple[Operator, ...]
    tensor_bytes: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    float_tensors: frozenset[str] = frozenset()
    shared_weight_bytes: int = 0
    shared_kept_bytes: int = 0
    branches: str = ""

    @property
    def macs(self) -> int:
        return round(sum(op.macs * op.repeats for op in self.operators))

    @property
    def weight_bytes(self) -> int:
        return sum(op.weight_bytes for op in self.operators) - self.shared_weight_bytes

    @property
    def is_float32(self) -> bool:
        """The graph computes in float32: it has not been quantized or cast, nor is all of it of another precision."""
        arithmetic = [op for op in self.operators if op.op_class in MAC_CLASSES] or self.operators
        found = {op.dtype for op in arithmetic}
        return found.isdisjoint(_LOWER) and ("float32" in found or not found)

    def at_precision(self, dtype: str) -> Workload:
        """The same network once the weights and activations that are float32 now are stored as `dtype`."""
        ratio = ITEM_BYTES["float32"] // ITEM_BYTES[dtype]
        if ratio == 1:
            return self
        sizes = {
            name: -(-size // ratio) if name in self.float_tensors else size for name, size in self.tensor_bytes.items()
        }
        shared = self.shared_kept_bytes + (self.shared_weight_bytes - self.shared_kept_bytes) // ratio
        return replace(
            self,
            operators=tuple(_narrow(op, dtype, ratio, sizes) for op in self.operators),
            tensor_bytes=sizes,
            float_tensors=frozenset(),
            shared_weight_bytes=shared,
            shared_kept_bytes=shared,
        )


def _narrow(op: Operator, dtype: str, ratio: int, sizes: Mapping[str, int]) -> Operator:
    is_float = op.dtype == "float32"
    float_bytes = op.weight_bytes - op.kept_weight_bytes if is_float else 0
    weight_bytes = op.weight_bytes - float_bytes - (-float_bytes // ratio)
    return replace(
        op,
        dtype=dtype if is_float else op.dtype,
        input_bytes=sum(sizes[name] for name in op.reads),
        output_bytes=sum(sizes[name] for name in op.writes),
        weight_bytes=weight_bytes,
        kept_weight_bytes=weight_bytes,
    )
