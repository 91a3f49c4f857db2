"""The program as it grows: tensors, constants, calls of our kernels, and the operators that are left to TVM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from passes.dataset import Array
from toolkit.backends.ahead_of_time.plan import ALIGNMENT
from toolkit.backends.ahead_of_time.trace import Call, Kernel, Tensor

__all__ = ["Draft", "Island", "Step"]


@dataclass(frozen=True)
class Step:
    """A call, with the tensors that it reads and those that it writes."""

    call: Call
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass
class Island:
    """Operators in floats, or that only move integers: one graph for TVM, whose parts need not be connected.

    `inputs` and `outputs` are the tensors of the program, by the names that the graph has for them.
    """

    nodes: list[Any] = field(default_factory=list)  # NodeProto
    constants: dict[str, Any] = field(default_factory=dict)  # TensorProto
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Draft:
    """Steps in an order in which they could run, were it not for the island."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    island: Island = field(default_factory=Island)
    _known: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def tensor(self, dtype: str, shape: Sequence[int]) -> str:
        """A new tensor; its name."""
        made = Tensor(f"value {len(self.tensors)}", dtype, tuple(shape))
        self.tensors[made.name] = made
        return made.name

    def constant(self, array: Array) -> str:
        """Its name; equal arrays are stored once."""
        key = (array.dtype.name, np.ascontiguousarray(array).tobytes())
        if key not in self._known:
            self._known[key] = f"weights {len(self._known)}"
            self.constants[self._known[key]] = array
        return self._known[key]

    def call(
        self, function: str, settings: Sequence[str], reads: Sequence[str], write: str, *, declared: str = "",
        scratch_bytes: int = 0, takes_scratch: bool = False,
    ) -> None:  # fmt: skip
        """Call a kernel of `integers.h`: settings first, then what it reads, what it writes, and its scratch memory.

        Args:
            declared: C in front of the call that `settings` refer to.
            takes_scratch: The kernel has a last parameter for scratch memory, null where it needs none.
        """
        scratch_bytes = -(-scratch_bytes // ALIGNMENT) * ALIGNMENT
        arguments = (*reads, write)
        kinds = tuple(self._kind(name) for name in arguments)
        name = f"integers_{len(self.kernels)}"
        text = _wrapper(name, function, settings, kinds, declared, scratch_bytes, takes_scratch)
        self.kernels[name] = Kernel(name, kinds, scratch_bytes, text)
        held = tuple(r for r in reads if r not in self.constants)
        self.steps.append(Step(Call(name, arguments), held, (write,)))

    def _kind(self, name: str) -> str:
        return self.constants[name].dtype.name if name in self.constants else self.tensors[name].dtype


_C_TYPES: Mapping[str, str] = {"int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t", "float32": "float"}


def _wrapper(
    name: str, function: str, settings: Sequence[str], kinds: Sequence[str], declared: str, scratch: int, takes: bool
) -> str:
    """A function of pointers alone around a kernel: what is known at compile time lies inside."""
    parameters = ", ".join(f"{_C_TYPES[kind]} *p{i}" for i, kind in enumerate(kinds))
    pointers = [*settings, *(f"(int8_t *)p{i}" if kind == "uint8" else f"p{i}" for i, kind in enumerate(kinds))]
    lines = [f"int32_t {name}({parameters}) {{", *([f"  {declared}"] if declared else [])]
    if scratch:
        lines += [
            f"  int8_t *scratch = TVMBackendAllocWorkspace(1, 0, {scratch}, 0, 8);",
            "  if (!scratch)",
            "    return 1;",
        ]
    if takes:
        pointers.append("scratch" if scratch else "0")
    lines.append(f"  {function}({', '.join(pointers)});")
    lines.append("  return TVMBackendFreeWorkspace(1, 0, scratch);" if scratch else "  return 0;")
    return "\n".join([*lines, "}", ""])
