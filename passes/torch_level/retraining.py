"""What the passes that change a module's weights have in common: checks before time is spent, and what they promise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

from passes.compare import compare
from passes.context import Context
from passes.contract import Pass, PassFailed
from passes.dataset import UNASKED, Dataset
from passes.program import Level, Program
from passes.torch_level.capture import flatten, is_script, to_tensor
from passes.torch_level.clean_up_module import copied

if TYPE_CHECKING:
    import torch
    from torch import nn

    from passes.torch_level.losses import Teacher

__all__ = ["Reshapes", "batches_of", "example_of", "freeze_like", "origin", "prepared", "same_outputs", "teacher_for"]


_BATCH = 16


class Reshapes(Pass):
    """A pass that gives a torch module other weights: what it is worth is seen from the graphs it exports to."""

    level = Level.TORCH

    def requires(self, program: Program, ctx: Context) -> None:
        if is_script(program.model):
            raise PassFailed(
                f"{self.name} cannot change a TorchScript module",
                hint="give the module it was made from: module:factory",
            )
        self._check_training(program, ctx)

    def priced(self, program: Program, ctx: Context) -> Program:
        from passes.torch_level.export import Export

        return program.kept("exported to be priced", lambda: Export().apply(program, ctx))

    def _check_training(self, program: Program, ctx: Context) -> None:
        settings: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        if "epochs" not in settings:
            return
        if settings["epochs"] < 0 or not (isfinite(settings["rate"]) and settings["rate"] > 0):
            raise PassFailed(
                f"{self.name} cannot train {settings['epochs']} epochs at a rate of {settings['rate']}",
                hint="epochs are 0 or more, the rate is above 0",
            )
        if settings["epochs"] == 0:
            return
        if ctx.fit is None:
            raise PassFailed(f"{self.name} trains, and nothing here does", hint="give a trainer, or set epochs to 0")
        if ctx.data is None:
            raise PassFailed(f"{self.name} trains, and there are no data", hint="give training data with --data")
        _check_labels(program, ctx)

    def _check_answers(self, before: Program, after: Program, ctx: Context) -> None:
        """Where no labels judge what was trained, its answers must stay those of the original, within the budget."""
        data = ctx.proof_data(before)
        if ctx.metric is not None and data.labels is not None:
            return
        worst = min(drift.sqnr_db for drift in compare(origin(before), after, data))
        if not worst >= ctx.budget.min_sqnr_db:
            raise PassFailed(
                f"{self.name}: without labels its answers must stay within {ctx.budget.min_sqnr_db:g} dB SQNR of the "
                f"original; they are at {worst:.1f} dB",
                hint="give labelled data with --data, remove less, or train longer",
            )


def origin(program: Program) -> Program:
    """The program that all of this came from: before any pass that trained, whose result is a reference of its own."""
    while program.reference is not None and program.reference is not program:
        program = program.reference
    return program


def teacher_for(program: Program, ctx: Context, *, temperature: float = 2.0, alpha: float = 0.5) -> Teacher:
    """The network that `program` came from, whose outputs count as classes where the data have labels."""
    from passes.torch_level.losses import teacher_of

    model = origin(program).model
    logits = ctx.data is not None and ctx.data.labels is not None
    return teacher_of(
        model, program.signature, example_of(program), logits=logits, temperature=temperature, alpha=alpha
    )


def example_of(program: Program) -> list[torch.Tensor]:
    """The program's example, as its module takes it."""
    return [to_tensor(program.example[spec.name]) for spec in program.signature.inputs]


def same_outputs(model: nn.Module, program: Program) -> str:
    """How the outputs of `model` differ in number, type or shape from the signature; empty where they do not."""
    import torch

    with torch.no_grad():
        made = flatten(model(*example_of(program)))
    specs = program.signature.outputs
    if len(made) != len(specs):
        return f"it has {len(made)} outputs, not {len(specs)}"
    return next(
        (problem for spec, tensor in zip(specs, made, strict=True) if (problem := spec.accepts(tensor.numpy()))), ""
    )


def _check_labels(program: Program, ctx: Context) -> None:
    labels = ctx.data.labels if ctx.data is not None else None
    if labels is None:
        return
    first = program.signature.outputs[0]
    answer = next(iter(program.run(program.example).values()))
    positions = labels.shape[1:]
    classes = prod(answer.shape[1 + len(positions) :])
    fits = answer.ndim > 1 + len(positions) and answer.shape[1 : 1 + len(positions)] == positions
    if not fits or not first.dtype.startswith("float") or len(labels) != len(ctx.data or ()):
        raise PassFailed(
            f"the labels do not fit the output {first}",
            hint="give a class for each sample, or for each of its positions, or no labels",
        )
    asked = labels[labels != UNASKED] if positions else labels
    if len(asked) and not 0 <= int(asked.min()) <= int(asked.max()) < classes:
        raise PassFailed(
            f"labels from {asked.min()} to {asked.max()} are out of range: the model has {classes} classes",
            hint=f"number the classes from 0 to {classes - 1}",
        )


def batches_of(program: Program, data: Dataset) -> Iterator[tuple[list[torch.Tensor], torch.Tensor | None]]:
    """Inputs as the module takes them and labels, 16 at once; one by one where it takes no two samples at once."""
    import torch

    held: list[list[torch.Tensor]] = []
    specs = program.signature.inputs
    size = _BATCH if all(s.shape and isinstance(s.shape[0], str) for s in specs) or _is_batched(program) else 1
    for count, sample in enumerate(data, start=1):
        held.append([to_tensor(sample[spec.name]) for spec in specs])
        if len(held) == size or count == len(data):
            labels = None if data.labels is None else torch.as_tensor(data.labels[count - len(held) : count])
            yield [torch.cat(parts) for parts in zip(*held, strict=True)], labels
            held = []


def _is_batched(program: Program) -> bool:
    """Whether the module itself takes two samples at once."""
    import torch

    pair = [torch.cat([a, a]) if a.ndim else a for a in example_of(program)]
    try:
        with torch.no_grad():
            return all(out.shape[:1] == pair[0].shape[:1] for out in flatten(program.model(*pair)))
    except Exception:  # a forward that states its sizes raises anything
        return False


def freeze_like(model: nn.Module, like: nn.Module) -> None:
    """Weights that the user had frozen are frozen again."""
    frozen = {name for name, parameter in like.named_parameters() if not parameter.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen and parameter.is_floating_point())


def prepared(program: Program) -> nn.Module:
    """A copy to change, in eval mode. Its attention is made of plain layers, which torch's own reads without a call."""
    from passes.torch_level.open_attention import open_attention

    model = copied(program.model)
    open_attention(model)
    return model.eval()
