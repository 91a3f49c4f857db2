"""Train a smaller network to answer, and to see, like the one that it came from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.context import Context
from passes.contract import Kind, PassFailed
from passes.program import Program
from passes.torch_level.capture import signature_of
from passes.torch_level.clean_up_module import copied
from passes.torch_level.retraining import Reshapes, example_of, freeze_like, origin, same_outputs, teacher_for
from targets.cost import estimate
from targets.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from passes.torch_level.feature_pairs import Pair

__all__ = ["Distil"]

_AUTO = ("auto",)
_SLOWER = 1.001  # predicted times within a thousandth count as equal


@dataclass(frozen=True)
class Distil(Reshapes):
    """Train the network on the answers of the original, and on the labels where the data have any.

    The teacher is the program before the first pass that trained; the student is the network as it is now, pruned or
    factorised, or another one. Answers that are classes (the data have labels) are compared softened by a temperature
    (Hinton, Vinyals, Dean 2015, arXiv:1503.02531), others by their values. Inner values may be compared as well:
    directly, through a linear map that is learned where widths differ (FitNets: Romero et al. 2015, arXiv:1412.6550),
    and by where they are large (Zagoruyko and Komodakis 2017, arXiv:1612.03928).

    Settings:
        student: `module:factory` of a network with the same inputs and outputs; empty for the program itself.
        temperature: Softens the classes.
        alpha: Weight of the teacher's answers, 0 to 1; the rest is the labels'.
        features: Modules whose outputs are compared: a name in both networks or `student=teacher`; or `auto` alone, for
            the last module at each grid of positions that both have.
        feature_weight: Of their distance, in units of the teacher's variance.
        attention: Weight of the distance of attention maps at the same places; 0 for none.
        epochs, rate: Of the training.
    """

    student: str = ""
    temperature: float = 2.0
    alpha: float = 0.5
    features: tuple[str, ...] = ()
    feature_weight: float = 0.1
    attention: float = 0.0
    epochs: int = 10
    rate: float = 1e-3
    kind = Kind.RETRAINED

    def requires(self, program: Program, ctx: Context) -> None:
        super().requires(program, ctx)
        weights = (self.temperature, self.feature_weight, self.attention)
        if self.epochs < 1 or not 0 <= self.alpha <= 1 or not all(isfinite(w) and w >= 0 for w in weights):
            raise PassFailed(
                f"{self.name} cannot go by {self.settings}",
                hint="at least one epoch, alpha from 0 to 1, weights from 0 up",
            )
        if not self.temperature:
            raise PassFailed("the temperature is 0", hint="choose 1 for the classes as they are, 2 to 5 to soften them")
        if not self.student and program.model is origin(program).model:
            raise PassFailed(
                "the student is the teacher", hint="prune or factorise before, or name a student: module:factory"
            )
        student = self._student(program, ctx)
        if problem := _unfit(student, program):
            raise PassFailed(
                f"the student cannot stand in for {program.name}: {problem}",
                hint="give it the inputs and outputs of the model; its inner sizes are free",
            )
        if self.student:
            self._check_pace(student, program, ctx)
        if (self.features or self.attention) and not self._pairs(student, program):
            raise PassFailed("the two networks have no positions in common", hint="name features: student=teacher")

    def apply(self, program: Program, ctx: Context) -> Program:
        assert ctx.fit is not None
        from passes.torch_level.lesson import Learner, Lesson

        student = self._student(program, ctx)
        pairs = self._pairs(student, program)
        teacher = teacher_for(program, ctx, temperature=self.temperature, alpha=self.alpha)
        lesson = Lesson(teacher, pairs, self.feature_weight if self.features else 0.0, self.attention)
        learner = Learner(student, pairs if self.features else (), ctx.seed)
        trained = ctx.fit(learner, lesson, step=self.name, epochs=self.epochs, rate=self.rate)
        model: nn.Module = trained.student  # type: ignore[assignment]
        freeze_like(model, program.model)
        return program.with_model(model.eval())

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        if problem := same_outputs(after.model, before):
            raise PassFailed(f"the student answers otherwise: {problem}", hint="give it the outputs of the model")
        self._check_answers(before, after, ctx)

    def notes(self, before: Program, after: Program, ctx: Context) -> tuple[str, ...]:
        teacher = origin(before).model
        weights = [sum(p.numel() for p in model.parameters()) for model in (teacher, after.model)]
        pairs = [
            f"{p.student} ({p.widths[0]}) after {p.teacher} ({p.widths[1]})" for p in self._pairs(after.model, before)
        ]
        judged = "classes" if ctx.data is not None and ctx.data.labels is not None else "values"
        lines = (f"{weights[1]:,} parameters learned from {weights[0]:,}, whose answers count as {judged}",)
        return (*lines, f"compared inside: {', '.join(pairs)}") if pairs else lines

    def _check_pace(self, student: nn.Module, program: Program, ctx: Context) -> None:
        """A student that would be reverted for being slower is refused before it is trained."""
        was, now = (self.priced(p, ctx).static_model for p in (program, program.with_model(student)))
        before_s, after_s = (estimate(graph, ctx.stack, as_is=True, quick=True).latency_s for graph in (was, now))
        if after_s > before_s * _SLOWER:
            raise PassFailed(
                f"the student is predicted to be slower on {ctx.stack.id}: {1e3 * before_s:.4g} ms before, "
                f"{1e3 * after_s:.4g} ms after",
                hint="choose a smaller student",
            )

    def _student(self, program: Program, ctx: Context) -> nn.Module:
        model = _made(self.student, ctx.seed) if self.student else copied(program.model)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return model.eval()

    def _pairs(self, student: nn.Module, program: Program) -> Sequence[Pair]:
        from passes.torch_level.feature_pairs import matching_pairs, named_pairs

        if not self.features and not self.attention:
            return ()
        teacher, args = origin(program).model, example_of(program)
        if self.features in ((), _AUTO):
            return matching_pairs(student, teacher, args)
        return named_pairs(student, teacher, args, self.features)


def _unfit(student: nn.Module, program: Program) -> str:
    """Why `student` cannot take the inputs or give the outputs of `program`; empty where it can."""
    wanted = program.signature
    dynamic = {s.name: {i: d for i, d in enumerate(s.shape) if isinstance(d, str)} for s in wanted.inputs}
    example = {spec.name: program.example[spec.name] for spec in wanted.inputs}
    try:
        found = signature_of(student, example, dynamic)
    except InvalidInput as error:
        return error.problem
    have, want = ([(s.dtype, _sizes(s.shape)) for s in signature.outputs] for signature in (found, wanted))
    if have == want:
        return ""
    shown = [", ".join(f"{dtype}{list(shape)}" for dtype, shape in side) for side in (have, want)]
    return f"it gives {shown[0]} instead of {shown[1]}"


def _sizes(shape: Sequence[int | str]) -> tuple[int | str, ...]:
    return tuple("?" if isinstance(size, str) else size for size in shape)


def _made(spec: str, seed: int) -> nn.Module:
    """What `module:factory` returns, found from the current folder; its random weights come from `seed`."""
    import torch
    from torch import nn

    module_name, _, attribute = spec.partition(":")
    try:
        with _from_here(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            target: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                target = getattr(target, part)
            made = target() if not isinstance(target, nn.Module) else copied(target)
    except Exception as error:  # the user's module raises anything
        raise PassFailed(
            f"the student {spec!r} cannot be made: {type(error).__name__}: {error}",
            hint="name it module:factory, a function without arguments that returns a torch module",
        ) from error
    if not isinstance(made, nn.Module) or isinstance(made, torch.jit.ScriptModule):
        raise PassFailed(
            f"the student {spec!r} is {type(made).__name__}, no torch module that can be trained",
            hint="let the factory return an nn.Module",
        )
    return made


@contextmanager
def _from_here() -> Iterator[None]:
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)
