"""Gradient checkpointing: inner values of a block are computed again when its gradient is, instead of being held.

Source: Chen et al. 2016, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import ceil, isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["blocks", "recomputing"]


def blocks(model: nn.Module) -> list[nn.Module]:
    """What is computed again as a whole: members of the outermost lists and chains of modules; a chain of single
    layers is one block. The model's children, where it has no such list."""
    found = list(_members(model))
    return found or [child for child in model.children() if any(True for _ in child.children())]


def _members(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) or _is_chain_of_layers(child):
            yield child
        else:
            yield from _members(child)


def _is_chain_of_layers(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and len(module) > 1 and all(not list(m.children()) for m in module)


@contextmanager
def recomputing(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """A block in which the blocks of `model` hold their inputs alone. Gradients, dropout and running means of norms
    are what they are without.

    A model that is one chain of n layers is cut into about the root of n pieces.
    """
    if not wanted:
        yield
        return
    changed = [model] if _is_chain_of_layers(model) else blocks(model)
    for module in changed:
        # an attribute of the instance hides the method of its class until it is deleted
        module.forward = _in_pieces(module) if module is model else _again(module.forward, (module,))  # type: ignore
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _in_pieces(chain: nn.Module) -> Callable[[Tensor], Tensor]:
    layers = list(chain.children())
    size = ceil(len(layers) / isqrt(len(layers)))
    pieces = [layers[at : at + size] for at in range(0, len(layers), size)]
    steps = [_again(partial(_through, piece), piece) for piece in pieces]

    def forward(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return forward


def _through(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _again(plain: Callable[..., Any], modules: Sequence[nn.Module]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        return checkpoint(plain, *args, use_reentrant=False, context_fn=lambda: _contexts(modules), **kwargs)

    return forward


def _contexts(modules: Sequence[nn.Module]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _leaving_buffers(modules)


@contextmanager
def _leaving_buffers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Running means move once a step: what the second forward does to them is undone."""
    held = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in held:
            buffer.data.copy_(value)  # through .data: the graph may hold the buffer, and its version has to stay
