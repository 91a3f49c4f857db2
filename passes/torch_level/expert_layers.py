"""Layers of experts, found by how they are built and by what they do, and made smaller where they stand.

Experts are the members of an `nn.ModuleList` or `nn.ModuleDict` that are built alike (Mixtral, Qwen2-MoE, Switch,
fairscale), or slices of parameters of three axes (GPT-OSS, Llama 4, Tutel, FastMoE). Their router is the layer nearby
that multiplies a weight with a row for each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from passes.torch_level.clean_up_module import copied

if TYPE_CHECKING:
    import torch
    from torch import nn

    from passes.torch_level.routing import Watching

__all__ = ["ExpertLayer", "expert_layers", "shrink"]

_LEVELS = 3  # a router stands at most so far above the experts: MoE.gate beside MoE.experts.mlp.w1
_CHOSEN = ("top_k", "topk", "k", "num_experts_per_tok", "num_experts_per_token", "n_activated_experts", "moe_top_k",
           "num_selected_experts", "num_selects")  # fmt: skip
_COUNTED = re.compile(r"(^|_)(n|nb|num|tot|total)(?!_?shared)\w*_experts?$")


@dataclass(frozen=True, kw_only=True)
class ExpertLayer:
    """Experts and what chooses among them, by module name.

    Args:
        name: The module that holds them all.
        router: Has a `weight` with a row for each expert.
        banks: Hold the experts: lists, or modules with stacked parameters.
        count: Number of experts.
        chosen: How many of them answer for one position; None where all do, each with its weight.
        held: Why the layer stays as it is; empty where it may shrink.
    """

    name: str
    router: str
    banks: tuple[str, ...]
    count: int
    chosen: int | None
    held: str = ""


def expert_layers(
    model: nn.Module,
    args: Sequence[torch.Tensor],
    protect: Sequence[str],
    unlike: Callable[[nn.Module, Mapping[str, Sequence[int]]], str],
) -> list[ExpertLayer]:
    """The layers of experts in `model`, those that stay as they are with the reason.

    Args:
        args: What one forward takes.
        protect: Names or globs of layers that stay.
        unlike: From a smaller module, and the experts that it lacks by router, to how it differs from `model` with
            those never chosen; empty where it does not.
    """
    import torch

    from passes.torch_level.routing import Watching

    with torch.no_grad(), Watching() as seen:
        model(*args)
    found = [_judged(model, choices, protect, unlike) for choices in _candidates(model, seen)]
    return [layer for layer in found if not any(_within(layer, other) for other in found if not other.held)]


def shrink(model: nn.Module, layer: ExpertLayer, kept: Sequence[int]) -> None:
    """Leave only the experts `kept` in the layer, in that order, and their rows in its router."""
    import torch

    router = model.get_submodule(layer.router)
    for name in ("weight", "bias"):
        _slice(router, name, kept)
    for bank in layer.banks:
        _shrink_bank(model.get_submodule(bank), layer.count, kept)
    if isinstance(router, torch.nn.Linear):
        router.out_features = len(kept)
    for part in _parts(model, layer):
        for name, value in list(vars(part).items()):
            if type(value) is not int or value != layer.count:
                continue
            if name in _CHOSEN or _COUNTED.search(name):
                setattr(part, name, len(kept))


# ---- finding


def _candidates(model: nn.Module, seen: Watching) -> Iterator[list[ExpertLayer]]:
    """For each set of experts, the layers that it may be part of; more than one where several layers could choose."""
    multiplied = {weight for _, weight in seen.products}
    banks: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    counts = _banks(model)
    for bank, count in counts.items():
        weights = {
            name: module.weight
            for name, module in model.named_modules()
            if id(getattr(module, "weight", None)) in multiplied and module.weight.shape[0] == count
        }
        where, routers = next(_near(bank, weights, _is_list(model.get_submodule(bank))), (_parent(bank), []))
        if routers or "expert" in bank.lower():
            banks.setdefault((where, tuple(routers)), []).append(bank)
    for (where, names), held in banks.items():
        count = counts[held[0]]
        plain = ExpertLayer(name=where, router="", banks=tuple(held), count=count, chosen=None)
        if not names:
            yield [replace(plain, held=f"no layer with {count} outputs chooses among its experts: what a table or a "
                                       "hash chooses cannot be taken from them")]  # fmt: skip
            continue
        yield [_chosen(model, replace(plain, router=router), seen) for router in names]


def _banks(model: nn.Module) -> dict[str, int]:
    """Whatever may be a set of experts, with their number."""
    from torch import nn

    found = {}
    for name, module in model.named_modules():
        if _is_list(module):
            members = list(module.children())
            if len(members) > 1 and len({_built(m) for m in members}) == 1 and [*members[0].parameters()]:
                found[name] = len(members)
        elif not type(module).__module__.startswith(nn.__name__):
            stacked = {len(p) for p in module.parameters(recurse=False) if p.ndim == 3}
            if len(stacked) == 1 and min(stacked) > 1:
                found[name] = min(stacked)
    return found


def _is_list(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, (nn.ModuleList, nn.ModuleDict))


def _built(module: nn.Module) -> tuple[object, ...]:
    return type(module), *((name, tuple(value.shape)) for name, value in module.state_dict().items())


def _near(bank: str, weights: Mapping[str, torch.Tensor], is_list: bool) -> Iterator[tuple[str, list[str]]]:
    """(module, routers within it) for the modules around a set of experts, the nearest first."""
    around = bank if not is_list else _parent(bank)
    for _ in range(_LEVELS - is_list):
        routers = [n for n in weights if _above(around, n) and n != around and not (is_list and _above(bank, n))]
        if routers:
            yield around, routers
        if not around:
            return
        around = _parent(around)


def _within(inner: ExpertLayer, outer: ExpertLayer) -> bool:
    """Whether a layer is part of another one's experts."""
    return inner is not outer and any(_above(bank, inner.name) for bank in outer.banks)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _above(outer: str, inner: str) -> bool:
    return not outer or inner == outer or inner.startswith(f"{outer}.")


def _chosen(model: nn.Module, layer: ExpertLayer, seen: Watching) -> ExpertLayer:
    """The layer with how many experts answer at once: what it states, else what it was seen to choose."""
    for part in _parts(model, layer):
        for name in _CHOSEN:
            value = vars(part).get(name)
            if type(value) is int and 1 <= value <= layer.count:
                return replace(layer, chosen=value)
    weight = id(model.get_submodule(layer.router).weight)
    started = next(when for when, product in seen.products if product == weight)
    others_like = _routers_like(model, layer.count)
    others = [when for when, product in seen.products if when > started and product in others_like]
    ended = min(others, default=float("inf"))
    chosen = [k for when, among, k in seen.choices if started < when < ended and among == layer.count]
    return replace(layer, chosen=chosen[0] if chosen else None)


def _routers_like(model: nn.Module, count: int) -> set[int]:
    """Weights that may be another router's, with as many experts."""
    return {id(p) for p in model.parameters() if p.ndim == 2 and len(p) == count}


def _parts(model: nn.Module, layer: ExpertLayer) -> list[nn.Module]:
    """The modules that the layer is made of, without what is in its experts."""
    names = {layer.name}
    for end in (layer.router, *layer.banks):
        while end and _above(layer.name, end):
            names.add(end)
            end = _parent(end)
    return [model.get_submodule(name) for name in sorted(names)]


# ---- judging


def _judged(
    model: nn.Module,
    choices: list[ExpertLayer],
    protect: Sequence[str],
    unlike: Callable[[nn.Module, Mapping[str, Sequence[int]]], str],
) -> ExpertLayer:
    """The layer as it is, or with the reason why it stays."""
    found = [_followed(model, layer, protect, unlike) for layer in choices]
    return next((layer for layer in found if not layer.held), found[0])


def _followed(
    model: nn.Module,
    layer: ExpertLayer,
    protect: Sequence[str],
    unlike: Callable[[nn.Module, Mapping[str, Sequence[int]]], str],
) -> ExpertLayer:
    if layer.held:
        return layer
    if any(fnmatchcase(layer.name, glob) for glob in protect):
        return replace(layer, held="it is protected")
    if name := _by_expert(model, layer):
        return replace(layer, held=f"its {name} has an entry for each expert, and what it does is not known")
    smaller = copied(model)
    shrink(smaller, layer, range(1, layer.count))  # without the first, all others stand elsewhere
    problem = unlike(smaller, {layer.router: [0]})
    return replace(layer, held=f"how it chooses cannot be followed ({problem})") if problem else layer


def _by_expert(model: nn.Module, layer: ExpertLayer) -> str:
    """A tensor of the layer, beside router and stacked experts, that has an entry for each expert; empty without."""
    router = model.get_submodule(layer.router)
    banks = [model.get_submodule(name) for name in layer.banks]
    for part in _parts(model, layer):
        stacked = part in banks and not _is_list(part)
        own = {
            **dict(part.named_parameters(recurse=False)),
            **dict(part.named_buffers(recurse=False)),
        }
        for name, value in own.items():
            followed = (part is router and name in ("weight", "bias")) or (stacked and len(value) == layer.count)
            if value.ndim and layer.count in (value.shape[0], value.shape[-1]) and not followed:
                return name
    return ""


# ---- shrinking


def _shrink_bank(bank: nn.Module, count: int, kept: Sequence[int]) -> None:
    if _is_list(bank):
        names, members = list(bank._modules), list(bank._modules.values())
        bank._modules = {name: members[i] for name, i in zip(names, kept, strict=False)}  # numbered anew
        return
    for name, value in (*bank.named_parameters(recurse=False), *bank.named_buffers(recurse=False)):
        if value.ndim and len(value) == count:
            _slice(bank, name, kept)


def _slice(module: nn.Module, name: str, kept: Sequence[int]) -> None:
    from torch import nn

    value = getattr(module, name, None)
    if value is None:
        return
    part = value.detach()[list(kept)].clone()
    if isinstance(value, nn.Parameter):
        setattr(module, name, nn.Parameter(part, requires_grad=value.requires_grad))
    else:
        setattr(module, name, part)
