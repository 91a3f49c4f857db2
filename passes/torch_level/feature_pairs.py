"""Which inner values of two networks belong together: same positions, perhaps other widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from passes.contract import PassFailed
from passes.torch_level.capture import flatten

__all__ = ["Pair", "captured", "matching_pairs", "named_pairs"]


@dataclass(frozen=True)
class Pair:
    """Outputs of a module of the student and of one of the teacher: alike but for their size along `axis`."""

    student: str
    teacher: str
    axis: int
    widths: tuple[int, int]


@contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of these modules, as they are last made inside the block."""
    made: dict[str, Tensor] = {}

    def keep(name: str, value: object) -> None:
        tensors = [value] if isinstance(value, Tensor) else list(value) if isinstance(value, (tuple, list)) else []
        if tensors and isinstance(tensors[0], Tensor):
            made.pop(name, None)  # the order is that of the last calls
            made[name] = tensors[0]

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, taken, value, name=name: keep(name, value))
        for name in names
    ]
    try:
        yield made
    finally:
        for hook in hooks:
            hook.remove()


def named_pairs(student: nn.Module, teacher: nn.Module, args: Sequence[Tensor], names: Sequence[str]) -> list[Pair]:
    """One pair for each of `names`: a module of both, or `student=teacher`.

    Raises:
        PassFailed: there is no such module, or the two have other positions.
    """
    wanted = [(mine, theirs or mine) for mine, _, theirs in (name.partition("=") for name in names)]
    made = []
    for model, chosen, whose in (
        (student, [w[0] for w in wanted], "student"),
        (teacher, [w[1] for w in wanted], "teacher"),
    ):
        known = dict(model.named_modules())
        if missing := [name for name in chosen if name not in known or not name]:
            raise PassFailed(
                f"the {whose} has no module {missing[0]!r}", hint=f"its modules: {', '.join(list(known)[1:9])} ..."
            )
        made.append(_outputs(model, args, chosen))
    return [_pair(a, b, made[0].get(a), made[1].get(b)) for a, b in wanted]


def _pair(mine: str, theirs: str, a: Tensor | None, b: Tensor | None) -> Pair:
    if a is None or b is None:
        raise PassFailed(f"{mine if a is None else theirs} gives no tensor to compare", hint="name another module")
    differ = [i for i in range(a.ndim) if a.ndim == b.ndim and a.shape[i] != b.shape[i]]
    if a.ndim != b.ndim or a.ndim < 2 or len(differ) > 1 or differ == [0]:
        raise PassFailed(
            f"{mine} gives {list(a.shape)} and {theirs} {list(b.shape)}: other positions cannot be compared",
            hint="name modules whose outputs differ in their channels alone",
        )
    axis = differ[0] if differ else 1 if a.ndim in (2, 4, 5) else a.ndim - 1
    return Pair(mine, theirs, axis, (a.shape[axis], b.shape[axis]))


def matching_pairs(student: nn.Module, teacher: nn.Module, args: Sequence[Tensor]) -> list[Pair]:
    """For each grid of positions that both networks compute at, the last module of each that does; outputs aside.

    Channels are the second axis of images, and of sequences where there are convolutions over one dimension; else they
    are the last one.
    """
    ends: list[Mapping[tuple[int, ...], tuple[str, Tensor]]] = []
    axes = 1 if any(isinstance(m, nn.Conv1d) for m in (*student.modules(), *teacher.modules())) else 2
    for model in (student, teacher):
        made = _outputs(model, args, [name for name, _ in model.named_modules() if name])
        last: dict[tuple[int, ...], tuple[str, Tensor]] = {}
        for name, value in made.items():
            if value.ndim >= 3 and value.is_floating_point():
                axis = axes if value.ndim == 3 else 1
                last[(*value.shape[:axis], *value.shape[axis + 1 :])] = name, value
        ends.append(last)
    mine, theirs = ends
    shared = [grid for grid in mine if grid in theirs and grid[1:] != (1,) * (len(grid) - 1)]
    return [
        Pair(mine[g][0], theirs[g][0], axis := axes if mine[g][1].ndim == 3 else 1,
             (mine[g][1].shape[axis], theirs[g][1].shape[axis]))
        for g in shared
    ]  # fmt: skip


def _outputs(model: nn.Module, args: Sequence[Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """What modules give on `args`, in the order of their last calls, but for what the model itself gives."""
    with torch.no_grad(), captured(model, names) as made:
        results = {id(tensor) for tensor in flatten(model(*args))}
        return {name: value for name, value in made.items() if id(value) not in results}
