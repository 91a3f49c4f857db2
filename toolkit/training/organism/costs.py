"""What components cost on a target, in seconds, as `targets` prices the frozen layer that they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from targets.cost import estimate
from targets.operators import NOTHING, Product
from targets.stack import Stack
from targets.target import load_stack
from targets.workload import Operator, Workload

__all__ = ["HeadSizes", "Prices"]

_BYTES = 4


@dataclass(frozen=True)
class HeadSizes:
    """Of one component: `heads` heads of width `head_dim`."""

    heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """Of all its heads together."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class Prices:
    """Latency on `stack`, an id as `toolkit targets` lists it, for sequences of `length`.

    A frozen layer computes all of its components in one call, so a component costs its share of the layer by width.

    Raises:
        UnknownName: there is no such stack.
    """

    stack: str
    length: int

    def __post_init__(self) -> None:
        load_stack(self.stack)  # an unknown one is refused before anything is trained

    def layer_s(self, d_model: int, components: Mapping[str, HeadSizes]) -> float:
        """One sequence through the attention of one layer; 0 of no component."""
        if not components:
            return 0.0
        return _layer_s(self._stack, d_model, self.length, tuple(sorted(components.items())))

    def shares_s(self, d_model: int, components: Mapping[str, HeadSizes]) -> dict[str, float]:
        """Of each component, adding up to `layer_s`."""
        whole_s, width = self.layer_s(d_model, components), sum(c.width for c in components.values())
        return {name: whole_s * sizes.width / width for name, sizes in components.items()}

    @property
    def _stack(self) -> Stack:
        return load_stack(self.stack)


def _layer_s(stack: Stack, d_model: int, length: int, components: tuple[tuple[str, HeadSizes], ...]) -> float:
    width = sum(sizes.width for _, sizes in components)
    heads = sum(sizes.heads for _, sizes in components)
    sizes = {"x": length * d_model, "qkv": 3 * length * width, "scores": heads * length * length,
             "weights": heads * length * length, "mixed": length * width, "y": length * d_model}  # fmt: skip
    held = {name: _BYTES * count for name, count in sizes.items()}

    def op(
        name: str, read: tuple[str, ...], wrote: str, weights: int, product: Product, kind: str = "MatMul"
    ) -> Operator:
        return Operator(
            name=name, op_type=kind, op_class="elementwise" if kind == "Softmax" else "matmul", dtype="float32",
            input_bytes=sum(held[r] for r in read), output_bytes=held[wrote], weight_bytes=_BYTES * weights,
            product=product, reads=read, writes=(wrote,), rank=3,
        )  # fmt: skip

    each = width // heads
    work = Workload(
        name="attention of one layer",
        operators=(
            op("qkv", ("x",), "qkv", 3 * d_model * width, Product(length, d_model, 3 * width)),
            op("scores", ("qkv",), "scores", 0, Product(length, each, length, heads)),
            op("softmax", ("scores",), "weights", 0, NOTHING, "Softmax"),
            op("mixed", ("weights", "qkv"), "mixed", 0, Product(length, length, each, heads)),
            op("out", ("mixed",), "y", d_model * width, Product(length, width, d_model)),
        ),
        tensor_bytes=held,
        inputs=("x",),
        outputs=("y",),
        float_tensors=frozenset(held),
    )
    found = estimate(work, stack, quick=True)
    return found.latency_s - found.fixed_s
