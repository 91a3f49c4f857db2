"""A program's graph as a module that passes can rewrite and train: of any batch, whatever batch the program has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from passes.program import Program
from passes.signature import Signature, TensorSpec
from passes.torch_level.capture import capture, flatten
from targets.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor, fx, nn
    from torch.export import ExportedProgram

__all__ = ["batched_graph", "of_any_batch"]

_BATCH = "batch_"


def batched_graph(program: Program) -> tuple[fx.GraphModule, bool]:
    """The captured graph, and whether it takes batches or one sample at a time.

    The first dimension of every input is taken for the batch where it is 1 for all of them; a model that does not let
    it vary keeps its size. The module may be changed, its weights may not: they are the program's own.
    """
    from torch import fx

    exported, takes_batches = program.kept("captured for batches", lambda: _captured(program))
    module = exported.module(check_guards=False)  # sizes are ours to know
    return fx.GraphModule(module, module.graph), takes_batches  # torch's own refuses to be trained


def _captured(program: Program) -> tuple[ExportedProgram, bool]:
    firsts = [spec.shape[0] if spec.shape else 0 for spec in program.signature.inputs]
    if all(isinstance(first, str) for first in firsts):
        return _functional(program.exported), True
    if all(first == 1 for first in firsts):
        varying = replace(program, signature=_varying(program.signature), _kept={}, _answers={})
        try:
            return _functional(capture(varying)), True
        except InvalidInput:  # its own words about a batch are of no use here
            return _functional(program.exported), False
    return _functional(program.exported), False


def _varying(signature: Signature) -> Signature:
    return Signature(tuple(_with_batch(spec) for spec in signature.inputs), signature.outputs)


def _with_batch(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=(_BATCH, *spec.shape[1:]))


def _functional(exported: ExportedProgram) -> ExportedProgram:
    """Without operators in place: what they wrote to has another name before and after."""
    if any(_is_in_place(node) for node in exported.graph.nodes):
        functional: ExportedProgram = exported.run_decompositions({})
        return functional
    return exported


def _is_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def of_any_batch(module: nn.Module, takes_batches: bool) -> nn.Module:
    """`module`, or one that gives it sample after sample and joins the answers."""
    import torch
    from torch import nn

    if takes_batches:
        return module

    class OneByOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            rows = [flatten(self.inner(*(x[i : i + 1] for x in inputs))) for i in range(len(inputs[0]))]
            return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    return OneByOne()
