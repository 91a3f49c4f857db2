"""Drop from a module what only training needs: parametrisations become plain weights, dropout becomes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.program import Level, Program
from passes.torch_level.capture import is_script

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CleanUpModule"]


@dataclass(frozen=True)
class CleanUpModule(Pass):
    """Weight and spectral normalisation and other parametrisations are computed once, dropout is removed.

    Otherwise they stay in the graph, or in the module that later passes prune and retrain.

    Source: torch.nn.utils.parametrize, and the hooks of torch.nn.utils.weight_norm and spectral_norm before it.
    """

    kind = Kind.EXACT
    level = Level.TORCH
    gives = frozenset({"module_clean"})

    def requires(self, program: Program, ctx: Context) -> None:
        if is_script(program.model):
            raise PassFailed("a TorchScript module is cleaned after export", hint="nothing to do")

    def apply(self, program: Program, ctx: Context) -> Program:
        if not any(_needs_cleaning(module) for module in program.model.modules()):
            return program
        model = copy.deepcopy(program.model)
        for module in list(model.modules()):
            _bake(module)
        for parent, name in list(_dropouts(model)):
            _remove(parent, name)
        return program.with_model(model)


def _needs_cleaning(module: nn.Module) -> bool:
    from torch.nn.modules.dropout import _DropoutNd
    from torch.nn.utils import parametrize

    return parametrize.is_parametrized(module) or isinstance(module, _DropoutNd) or any(_norm_hooks(module))


def _bake(module: nn.Module) -> None:
    from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm

    if parametrize.is_parametrized(module):
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    for kind, name in list(_norm_hooks(module)):
        {"WeightNorm": remove_weight_norm, "SpectralNorm": remove_spectral_norm}[kind](module, name)


def _norm_hooks(module: nn.Module) -> Iterator[tuple[str, str]]:
    """(kind, parameter) of the normalisations that older torch attached as hooks."""
    for hook in module._forward_pre_hooks.values():
        if type(hook).__name__ in ("WeightNorm", "SpectralNorm"):
            yield type(hook).__name__, str(hook.name)  # type: ignore[attr-defined]


def _dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    from torch.nn.modules.dropout import _DropoutNd

    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, _DropoutNd):
                yield parent, name


def _remove(parent: nn.Module, name: str) -> None:
    from torch import nn

    setattr(parent, name, nn.Identity())
