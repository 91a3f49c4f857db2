"""Channels that are tied to each other: what one layer loses, every layer that adds it up or reads it loses with it.

torch-pruning finds the ties from the autograd graph (DepGraph: Fang et al. 2023, arXiv:2301.12900). It guesses where a
forward does what it does not know, so nothing is believed of it that `emptied` has not shown: a network without
channels answers like the one that has them filled with zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from passes.contract import PassFailed
from passes.quiet import quiet_libraries
from passes.torch_level.capture import flatten
from targets.errors import InvalidInput, MissingDependency

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Tied", "check_installed", "emptied", "remove", "tied_channels", "unit_sums"]

_HEADS = ("heads", "num_heads", "n_heads", "n_head", "nhead", "num_attention_heads")
"""Attributes that hold the number of an attention block's heads."""


@dataclass(frozen=True, kw_only=True)
class Tied:
    """Channels that go together: `units` of them may go one by one, each with `width` channels of the layer `root`.

    A unit is a channel, an attention head or a group of a group norm. `rows` and `columns` are the layers that lose
    outputs and inputs, with how many a unit takes; `counts` the attributes (module, name) that hold the number of
    units. `held` says why none may go; empty where they may.
    """

    root: str
    side: str
    units: int
    width: int
    rows: tuple[tuple[str, int], ...]
    columns: tuple[tuple[str, int], ...]
    counts: tuple[tuple[str, str], ...]
    held: str = ""

    @property
    def heads(self) -> bool:
        """Whether its units are attention heads."""
        return any(name in _HEADS for _, name in self.counts)


def check_installed() -> None:
    """Refuse to go on without torch-pruning.

    Raises:
        MissingDependency: names the extra that brings it.
    """
    try:
        import torch_pruning  # noqa: F401
    except ImportError as error:
        raise MissingDependency("torch-pruning is not installed", hint="pip install 'edge-toolkit[prune]'") from error


def tied_channels(model: nn.Module, args: Sequence[torch.Tensor], protect: Sequence[str] = ()) -> list[Tied]:
    """Every set of tied channels of `model`.

    Args:
        model: In eval mode; every floating parameter of it wants a gradient.
        args: What its forward takes.
        protect: Names or globs of modules whose outputs stay.
    """
    from torch import nn

    graph = _graph(model, args)
    shared = _with_shared_weights(model)
    kinds = [nn.modules.conv._ConvNd, nn.Linear]
    with _following():
        groups = list(graph.get_all_groups(root_module_types=kinds))
        return [_described(graph, model, group, shared, protect) for group in groups]


def remove(model: nn.Module, args: Sequence[torch.Tensor], gone: Mapping[Tied, Sequence[int]]) -> None:
    """Take units away from `model` itself."""
    graph = _graph(model, args)
    for tied, units in gone.items():
        if units:
            _group(graph, model, tied, units).prune()
            for module, name in tied.counts:
                owner = model.get_submodule(module)
                setattr(owner, name, getattr(owner, name) - len(units))


def emptied(model: nn.Module, args: Sequence[torch.Tensor], gone: Mapping[Tied, Sequence[int]]) -> None:
    """Fill the same units with zeros, in every layer that makes or reads them: the answers must then be the same."""
    import torch

    graph = _graph(model, args)
    with torch.no_grad():
        for tied, units in gone.items():
            if not units:
                continue
            for weights, axis, positions, _ in _parts(graph, _group(graph, model, tied, units)):
                weights.index_fill_(axis, torch.tensor(positions), 0.0)


def unit_sums(
    model: nn.Module,
    args: Sequence[torch.Tensor],
    groups: Sequence[Tied],
    value: Callable[[torch.Tensor], torch.Tensor | None],
) -> list[torch.Tensor]:
    """For each set the sum of `value` over all weights that a unit has, (units,) in float64.

    Args:
        value: From a parameter to a tensor of its shape; None counts as zeros.
    """
    import torch

    graph = _graph(model, args)
    found = []
    for tied in groups:
        total = torch.zeros(tied.units, dtype=torch.float64)
        for weights, axis, positions, roots in _parts(graph, _group(graph, model, tied, range(tied.units))):
            values = value(weights)
            if values is None:
                continue
            each = values.detach().double().movedim(axis, 0).flatten(1).sum(1) if values.ndim > 1 else values.double()
            units = torch.tensor([root // tied.width for root in roots])
            total.index_add_(0, units, each.detach()[torch.tensor(positions)])
        found.append(total)
    return found


def _graph(model: nn.Module, args: Sequence[torch.Tensor]) -> Any:
    import torch
    import torch_pruning

    ends: list[Any] = []

    def note_ends(outputs: Any) -> list[Any]:
        made = flatten(outputs)
        ends.extend(tensor.grad_fn for tensor in made)
        return made

    with quiet_libraries(), torch.enable_grad(), _following():
        graph = torch_pruning.DependencyGraph()
        graph.build_dependency(model, tuple(args), output_transform=note_ends, verbose=False)
        graph.ends = ends
        return graph


@contextmanager
def _following() -> Iterator[None]:
    """The library raises anything where a forward does what it does not know."""
    try:
        yield
    except (MemoryError, InvalidInput):
        raise
    except Exception as error:  # the library and the user's forward raise anything
        said = str(error).splitlines()[0][:200] if str(error) else ""
        raise PassFailed(
            f"cannot follow how its channels are tied: {type(error).__name__}: {said}",
            hint="torch-pruning reads a forward that runs with gradients, in one piece, without recurrent layers; "
            "design a narrower network, or factorise its layers",
        ) from error


def _group(graph: Any, model: nn.Module, tied: Tied, units: Sequence[int]) -> Any:
    root = model.get_submodule(tied.root)
    pruner = graph.get_pruner_of_module(root)
    function = pruner.prune_out_channels if tied.side == "rows" else pruner.prune_in_channels
    channels = [unit * tied.width + i for unit in units for i in range(tied.width)]
    return graph.get_pruning_group(root, function, channels)


def _parts(graph: Any, group: Any) -> Iterator[tuple[torch.Tensor, int, list[int], list[int]]]:
    """(weights, axis, positions along it, the root's channels they belong to) of everything a group takes away."""
    from torch import nn

    for item in group:
        layer, positions, roots = item.dep.target.module, list(item.idxs), list(item.root_idxs)
        if any(root is None for root in roots):
            continue
        if isinstance(layer, nn.Parameter):
            yield layer, item.dep.target.pruning_dim % layer.ndim, positions, roots
        elif isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            rows = _is_rows(graph, item)
            axis = 0 if rows != bool(getattr(layer, "transposed", False)) else 1
            yield layer.weight, 0 if _is_depthwise(layer) else axis, positions, roots
            if rows and layer.bias is not None:
                yield layer.bias, 0, positions, roots
        elif isinstance(layer, nn.Module):
            for weights in layer.parameters(recurse=False):
                yield weights, 1 if isinstance(layer, nn.Embedding) else 0, positions, roots


def _is_rows(graph: Any, item: Any) -> bool:
    return bool(graph.is_out_channel_pruning_fn(item.dep.handler))


def _is_depthwise(layer: nn.Module) -> bool:
    return getattr(layer, "groups", 1) > 1 and layer.groups == layer.out_channels == layer.in_channels


def _described(graph: Any, model: nn.Module, group: Any, shared: set[int], protect: Sequence[str]) -> Tied:
    from torch import nn

    names = {module: name for name, module in model.named_modules()}
    counts = [*_head_counts(graph, group, model, names), *_norm_counts(group, names)]
    root, side = group[0].dep.target.module, "rows"
    if any(name in _HEADS for _, name in counts):  # rows of q, k and v in one layer are no units: columns behind are
        readers = [i for i in group if isinstance(i.dep.target.module, nn.Linear) and not _is_rows(graph, i)]
        if readers:
            root, side = readers[-1].dep.target.module, "columns"
            group = _group(graph, model, Tied(root=names[root], side=side, units=root.in_features, width=1,
                                              rows=(), columns=(), counts=()), range(root.in_features))  # fmt: skip
    channels = len(group[0].idxs)
    sizes = {getattr(model.get_submodule(module), name) for module, name in counts}
    units = sizes.pop() if len(sizes) == 1 else channels
    layers = [i for i in group if isinstance(i.dep.target.module, (nn.Linear, nn.modules.conv._ConvNd))]
    held = _held(graph, group, names, shared, protect)
    if not held and (sizes or any(len(item.idxs) % units for item in layers)):
        held = "its heads or groups are counted differently by layers that share them"
    return Tied(
        root=names[root],
        side=side,
        units=units,
        width=max(channels // units, 1),
        rows=tuple((names[i.dep.target.module], len(i.idxs) // units) for i in layers if _is_rows(graph, i)),
        columns=tuple((names[i.dep.target.module], len(i.idxs) // units) for i in layers if not _is_rows(graph, i)),
        counts=tuple(dict.fromkeys(counts)),
        held=held,
    )


def _head_counts(graph: Any, group: Any, model: nn.Module, names: Mapping[nn.Module, str]) -> Iterator[tuple[str, str]]:
    """Where the module around every layer of the group says how many heads the outputs of its linear layers are."""
    from torch import nn

    layers = [i for i in group if isinstance(i.dep.target.module, (nn.Linear, nn.modules.conv._ConvNd))]
    parents = {names[item.dep.target.module].rpartition(".")[0] for item in layers}
    if len(parents) != 1 or all(_is_rows(graph, item) for item in layers):
        return
    (parent,) = parents
    owner = model.get_submodule(parent)
    widths = [item.dep.target.module.weight.shape[0] for item in layers if _is_rows(graph, item)]
    for name in _HEADS:
        heads = getattr(owner, name, None)
        if isinstance(heads, int) and heads > 1 and all(width % heads == 0 for width in widths):
            yield parent, name


def _norm_counts(group: Any, names: Mapping[nn.Module, str]) -> Iterator[tuple[str, str]]:
    from torch import nn

    for item in group:
        if isinstance(item.dep.target.module, nn.GroupNorm):
            yield names[item.dep.target.module], "num_groups"


def _held(graph: Any, group: Any, names: Mapping[nn.Module, str], shared: set[int], protect: Sequence[str]) -> str:
    """Why the channels of a group stay; empty where they may go."""
    from torch import nn
    from torch_pruning import ops

    plain = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.PReLU, nn.Embedding,
             nn.modules.instancenorm._InstanceNorm, nn.Parameter)  # fmt: skip
    for item in group:
        node = item.dep.target
        layer, name = node.module, names.get(node.module, "")
        rows = _is_rows(graph, item)
        if isinstance(layer, ops._OutputOp) or (rows and any(node.grad_fn is end for end in graph.ends)):
            return "an output of the model"
        if rows and name and any(fnmatchcase(name, p) or name.startswith(f"{p}.") for p in protect):
            return "protected"
        if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            return f"normalised together by {name}"
        if getattr(layer, "groups", 1) > 1 and not _is_depthwise(layer):
            return f"{name} is a grouped convolution"
        if isinstance(layer, nn.modules.conv._ConvTransposeNd) and layer.groups > 1:
            return f"{name} is a grouped convolution"
        if any(id(p) in shared for p in (layer.parameters(recurse=False) if name else ())):
            return f"{name} shares its weights with another layer"
        if name and not isinstance(layer, plain):
            return f"they pass through {name}, a {type(layer).__name__}"
    return ""


def _with_shared_weights(model: nn.Module) -> set[int]:
    """Identities of parameters that several modules hold."""
    holders = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return {parameter for parameter, count in holders.items() if count > 1}
