"""Fold batch normalisation into the convolution or linear layer in front of it, in the module itself.

The pairs are read off the captured graph, not off the order of the modules, so a layer that is shared, or whose
output is also used elsewhere, is left alone. Passes that prune or retrain need a module without batch norm; what this
one cannot see (functional calls, imported graphs) is folded in the ONNX graph by FuseBatchNorm.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.program import Level, Program
from passes.torch_level.capture import is_script

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FoldBatchNorm"]

_FOLDABLE = {"aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", "aten.conv2d.padding",
             "aten.conv1d.padding", "aten.conv_transpose2d.input", "aten.linear.default"}  # fmt: skip


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta, and the norm is gone.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    kind = Kind.EXACT
    level = Level.TORCH
    gives = frozenset({"module_batch_norm_folded"})

    def requires(self, program: Program, ctx: Context) -> None:
        if is_script(program.model):
            raise PassFailed("a TorchScript module is folded after export", hint="nothing to do")

    def apply(self, program: Program, ctx: Context) -> Program:
        pairs = _pairs(program)
        if not pairs:
            return program
        model = copy.deepcopy(program.model)
        for layer, norm in pairs:
            _fold(model, layer, norm)
        return program.with_model(model)


def _pairs(program: Program) -> list[tuple[str, str]]:
    """Names of (layer, batch norm) modules of which the second is all that reads the first."""
    from torch import nn

    graph = program.exported.graph
    calls = Counter(_owner(node) for node in graph.nodes if node.op == "call_function")
    modules = dict(program.model.named_modules())
    found = []
    for node in graph.nodes:
        if str(node.target) != "aten.batch_norm.default":
            continue
        layer = node.args[0]
        if str(layer.target) not in _FOLDABLE or len(layer.users) != 1:
            continue
        if str(layer.target) == "aten.linear.default" and layer.meta["val"].ndim != 2:
            continue  # the norm runs over another axis than the layer's outputs
        names = _owner(layer), _owner(node)
        norm = modules.get(names[1])
        if (
            isinstance(modules.get(names[0]), (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear))
            and isinstance(norm, nn.modules.batchnorm._BatchNorm)
            and not (isinstance(modules[names[0]], nn.ConvTranspose2d) and modules[names[0]].groups > 1)
            and norm.running_mean is not None
            and all(calls[name] == 1 or _only_pads(graph, name) for name in names)
        ):
            found.append(names)
    return found


def _owner(node: Any) -> str:
    """Name of the innermost module that made a node of the captured graph."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _only_pads(graph: Any, name: str) -> bool:
    """A layer with padding of its own makes several nodes, but runs its kernel once."""
    kernels = [n for n in graph.nodes if n.op == "call_function" and _owner(n) == name and str(n.target) in _FOLDABLE]
    return len(kernels) == 1


def _fold(model: nn.Module, layer_name: str, norm_name: str) -> None:
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

    layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    if isinstance(layer, nn.Linear):
        layer.weight, layer.bias = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)  # type: ignore[arg-type]
    else:
        transposed = isinstance(layer, nn.ConvTranspose2d)
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, transpose=transposed)  # type: ignore[arg-type]
    parent, _, child = norm_name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
