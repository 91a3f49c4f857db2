"""A program as this backend holds it before a machine is chosen: integers that are ours, floats that are TVM's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.backends.ahead_of_time import adapter
from toolkit.backends.ahead_of_time.preparing import is_quantized, outputs_of, prepared, refuse_varying
from toolkit.backends.ahead_of_time.trace import Tensor, Trace

if TYPE_CHECKING:
    from passes.program import Program
    from toolkit.backends.ahead_of_time.integers.drafting import Draft
    from toolkit.backends.ahead_of_time.machines import Machine

__all__ = ["Network", "network_of"]


@dataclass(frozen=True, eq=False)
class Network:
    """What is known of a program for every machine.

    Args:
        outputs: As the signature has them.
        floats: The graph as TVM holds it, or that part of it which has no integer kernels.
        draft: The integer part of a quantized graph; None where everything is TVM's.
        inputs: Of a quantized graph.
        results: What the outputs of a quantized graph are.
    """

    outputs: tuple[Tensor, ...]
    floats: adapter.Lowered | None
    draft: Draft | None = None
    inputs: tuple[Tensor, ...] = ()
    results: tuple[str, ...] = ()

    def compiled(self, machine: Machine) -> adapter.Compiled:
        """Its kernels as an object file of `machine`, empty where TVM has none to compile."""
        return self._whole(adapter.compiled_object(self.floats, machine, self._made()) if self.floats else None)

    def written(self) -> adapter.Compiled:
        """Its kernels as C."""
        return self._whole(adapter.compiled_source(self.floats, self._made()) if self.floats else None)

    def _made(self) -> tuple[Tensor, ...]:
        """What TVM's part ends with."""
        return self.outputs if self.draft is None else tuple(self.draft.island.outputs.values())

    def _whole(self, theirs: adapter.Compiled | None) -> adapter.Compiled:
        if self.draft is None:
            assert theirs is not None
            return theirs
        from toolkit.backends.ahead_of_time.integers.merging import merged

        trace: Trace | None = theirs.trace if theirs is not None else None
        whole = merged(self.draft, self.inputs, self.results, self.outputs, trace)
        return adapter.Compiled(whole, theirs.code if theirs is not None else b"")


def network_of(program: Program) -> Network:
    """Lower the graph of `program`.

    Raises:
        InvalidInput: sizes vary, or TVM lacks an operator.
        MissingDependency: TVM is not installed.
    """
    refuse_varying(program)
    outputs = outputs_of(program)
    if not is_quantized(program):
        return Network(outputs, adapter.lowered(prepared(program.onnx_bytes)))
    from toolkit.backends.ahead_of_time.integers.lowering import lowered_integers
    from toolkit.backends.ahead_of_time.integers.merging import island_model

    draft, inputs, results = lowered_integers(program)
    left = None
    if draft.island.outputs:
        left = adapter.lowered(prepared(island_model(draft.island, program.opset).SerializeToString()))
    return Network(outputs, left, draft, inputs, results)
