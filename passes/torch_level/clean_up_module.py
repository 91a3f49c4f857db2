"""Compute once what a module computes from its weights at every call: parametrisations become plain weights."""

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

__all__ = ["CleanUpModule", "copied"]


@dataclass(frozen=True)
class CleanUpModule(Pass):
    """Weight and spectral normalisation and other parametrisations are computed once.

    Otherwise they stay in the graph, and hide the weights from passes that prune. Dropout stays: in eval mode it does
    nothing and leaves nothing in the graph, and a pass that trains wants it back.

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
        model = copied(program.model)
        for module in list(model.modules()):
            _bake(module)
        return program.with_model(model)


def copied(model: nn.Module) -> nn.Module:
    """A copy of its own: tensors that hold a gradient are detached, classes that torch made for one module are too.

    torch refuses to copy the former, and lets the copy share the latter, so that whatever is removed from the copy's
    class is removed from the user's module as well.
    """
    import torch
    from torch.nn.utils import parametrize

    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    detached = {id(value): value.detach().clone() for value in held if not value.is_leaf}
    copied: nn.Module = copy.deepcopy(model, detached)
    for module in copied.modules():
        if parametrize.is_parametrized(module):
            made = type(module)
            content = {key: value for key, value in vars(made).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(made.__name__, made.__bases__, content)
    return copied


def _needs_cleaning(module: nn.Module) -> bool:
    from torch.nn.utils import parametrize

    return parametrize.is_parametrized(module) or any(_norm_hooks(module))


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
