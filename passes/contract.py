"""The contract of a pass: what it promises, and the ceremony that holds it to that.

    requires(program) -> apply -> signature unchanged, structure valid -> ensures(before, after) -> answers compared
    -> cost compared -> kept, narrowed or reverted

A pass is a frozen dataclass: its fields are its configuration, and it holds no other state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from enum import StrEnum
from typing import Any, ClassVar, final

from passes.compare import compare, compare_metric
from passes.context import Context
from passes.program import Level, Program
from passes.proof import Decision, Proof
from passes.structure import check_structure
from targets.cost import estimate
from targets.errors import InvalidInput, MissingDependency

__all__ = ["EXACT_SQNR_DB", "Kind", "Pass", "PassFailed"]

EXACT_SQNR_DB = {"float32": 80.0, "float16": 40.0, "fake_quantized": 25.0}
"""What "the same to rounding" means: float32 carries 144 dB and float16 66 dB; reordered sums may cost four digits
of the one and 26 dB of the other. Where values are rounded to 8 bits, a sum that moves by a rounding may come to the
next of 255 steps, and so on in every layer: measured 60 dB and more over six layers and 32 dB over fifty (EfficientNet-
Lite0, which rounding itself leaves at 22 dB); a wrong scale costs far more."""

_SLOWER = 1.001  # predicted times within a thousandth count as equal
_SLOWER_OTHERWISE = 1.03  # of inexact passes: costs of two precisions are fitted apart, and repeats differ by as much


class PassFailed(InvalidInput):
    """This model cannot take this pass."""


class Kind(StrEnum):
    EXACT = "exact"
    APPROXIMATE = "approximate"
    RETRAINED = "retrained"


class Pass(ABC):
    """A rewrite of a program.

    Class attributes:
        kind: `exact` is compared with the program before it, `approximate` with the reference, `retrained` by the
            metric; the result of the last becomes the reference of what follows.
        level: Where it works; `becomes` is set by the one pass that changes level.
        needs, gives, breaks: Facts about programs. A recipe checks their order when it is built.
        prepares: Only drops what is computed anyway, or spells it differently: its time is shown, but never held
            against it, since what could not be priced before it (sizes not yet known) may be priced after it.
        renames: Takes names away. It is applied anew when a run goes on, since the names before it are still shown.
        essential: The road cannot go on without it: its refusal is an error, and so is a result that would be reverted.
    """

    kind: ClassVar[Kind]
    level: ClassVar[Level] = Level.ONNX
    becomes: ClassVar[Level | None] = None
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    breaks: ClassVar[frozenset[str]] = frozenset()
    prepares: ClassVar[bool] = False
    renames: ClassVar[bool] = False
    essential: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, as plain data."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]

    def requires(self, program: Program, ctx: Context) -> None:  # noqa: B027 - most passes take any program
        """Refuse a program or context that the pass cannot work on.

        Raises:
            PassFailed: with the reason; the recipe records it and goes on unless the pass is essential.
        """

    @abstractmethod
    def apply(self, program: Program, ctx: Context) -> Program:
        """The rewritten program; the one given stays as it was."""

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:  # noqa: B027
        """Check on the result what only this pass promises.

        Raises:
            PassFailed: the promise does not hold.
        """

    def priced(self, program: Program, ctx: Context) -> Program:
        """What stands for `program` where costs and sizes are compared; a torch program as it is has neither."""
        return program

    def notes(self, before: Program, after: Program, ctx: Context) -> tuple[str, ...]:
        """What the user should know of the result beside the numbers of the proof, a sentence each."""
        return ()

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> Pass | None:
        """The same pass on fewer layers, to try after `proof` was over budget; None where there is no less."""
        return None

    @final
    def __call__(self, program: Program, ctx: Context) -> tuple[Program, Proof]:
        """Apply the pass and judge it. The program that comes back is the one to go on with."""
        if program.level is not self.level:
            raise PassFailed(
                f"{self.name} works on {self.level} programs, this one is {program.level}",
                hint="put the pass before or after Export in the recipe",
            )
        self.requires(program, ctx)
        attempt: Pass = self
        first: Proof | None = None
        slower: tuple[bool, ...] = ()
        while True:
            with _unusable(attempt, ctx):
                after = attempt._checked_apply(program, ctx)
                proof = attempt._judge(program, after, ctx, slower)
            if proof.reason and attempt.essential:
                raise PassFailed(
                    f"{self.name}: {proof.reason}",
                    hint="a forward that draws random numbers or keeps state between calls cannot be deployed; "
                    "make its answer depend on its inputs alone",
                )
            if not proof.reason:
                narrowed = attempt is not self
                decision = Decision.NARROWED if narrowed else Decision.KEPT
                reason = attempt._narrowing(self) + _price_of(first, proof) if narrowed else ""
                return after, replace(proof, decision=decision, reason=reason)
            with _unusable(attempt, ctx):
                narrower = attempt.narrower(program, ctx, proof)
            if narrower is None:
                return program, replace(proof, decision=Decision.REVERTED)
            first = first or proof
            slower = proof.slower
            attempt = narrower

    def _checked_apply(self, program: Program, ctx: Context) -> Program:
        after = self.apply(program, ctx)
        if after.signature != program.signature:
            raise PassFailed(f"{self.name} changed the signature", hint="this is a bug in the pass: please report it")
        expected = self.becomes or program.level
        if after.level is not expected:
            raise PassFailed(
                f"{self.name} left a {after.level} program, not {expected}",
                hint="this is a bug in the pass: please report it",
            )
        facts = (program.facts - self.breaks) | self.gives
        if _same_graph(program, after):
            self.ensures(program, after, ctx)
            return program.with_facts(facts, program.truth)
        check_structure(after)
        self.ensures(program, after, ctx)
        return after.with_facts(facts, after if self.kind is Kind.RETRAINED else program.truth)

    def _judge(self, before: Program, after: Program, ctx: Context, slower: tuple[bool, ...] = ()) -> Proof:
        """The proof of one attempt; `slower` is what measuring said of those before it."""
        data = ctx.proof_data(before)
        against = before if self.kind is Kind.EXACT else before.truth
        drift = compare(against, after, data)
        metric = compare_metric(before.truth, after, data, ctx.metric) if ctx.metric else None
        was, now = self.priced(before, ctx), self.priced(after, ctx)
        proof = Proof(
            name=self.name,
            settings=self.settings,
            kind=str(self.kind),
            decision=Decision.KEPT,
            drift=drift,
            metric=metric,
            data=data.name,
            samples=len(data),
            cost_s=_costs(was, now, ctx),
            size_bytes=_sizes(was, now),
            nodes=_nodes(was, now),
            changed=not _same_graph(before, after),
            slower=slower,
            notes=self.notes(before, after, ctx),
        )
        if reason := self._drifted(proof, ctx, after):
            return replace(proof, reason=reason)
        if self.prepares or ("int8" in self.gives and ctx.stack.rules):
            return proof  # an accelerator takes integers: whether its host were faster is for the verdict to say
        if ctx.pace is None or before.level is not Level.ONNX or not proof.changed:
            return replace(proof, reason=_predicted_slower(proof, ctx))
        verdict = ctx.pace.slower(self.name, before, after)
        reason = "measured on this machine to be slower" if verdict else ""
        return replace(proof, reason=reason, slower=(*slower, verdict))

    def _drifted(self, proof: Proof, ctx: Context, after: Program) -> str:
        """Why the answers are not good enough, or an empty string."""
        if self.kind is Kind.EXACT:
            floor = min(EXACT_SQNR_DB.get(fact, EXACT_SQNR_DB["float32"]) for fact in (after.facts | {"float32"}))
            if proof.worst_sqnr_db < floor:
                return f"answers moved by {proof.worst_sqnr_db:.1f} dB SQNR; an exact pass must keep {floor:g} dB"
        elif self.kind is Kind.APPROXIMATE and proof.worst_sqnr_db < ctx.budget.min_sqnr_db:
            return f"{proof.worst_sqnr_db:.1f} dB SQNR is under the budget of {ctx.budget.min_sqnr_db:g} dB"
        if proof.metric and proof.metric.drop > ctx.budget.max_metric_drop:
            return f"{proof.metric.name} fell by {proof.metric.drop:.4f}, the budget is {ctx.budget.max_metric_drop:g}"
        return ""

    def _narrowing(self, wanted: Pass) -> str:
        changed = {k: v for k, v in self.settings.items() if v != wanted.settings[k]}
        return f"narrowed to {changed}"


def _price_of(first: Proof | None, proof: Proof) -> str:
    """What narrowing costs beside the first attempt, by the stack's model."""
    if first is None or first.cost_s is None or proof.cost_s is None:
        return ""
    whole_s, found_s = first.cost_s[1], proof.cost_s[1]
    return f"; predicted {1e3 * found_s:.4g} ms, and {1e3 * whole_s:.4g} ms without narrowing ({first.reason})"


def _predicted_slower(proof: Proof, ctx: Context) -> str:
    margin = _SLOWER if proof.kind == Kind.EXACT else _SLOWER_OTHERWISE
    if proof.cost_s is None or proof.cost_s[1] <= proof.cost_s[0] * margin:
        return ""
    before_ms, after_ms = (1e3 * s for s in proof.cost_s)
    return f"predicted to be slower on {ctx.stack.id}: {before_ms:.4g} ms before, {after_ms:.4g} ms after"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, frozenset)) else value


@contextmanager
def _unusable(attempt: Pass, ctx: Context) -> Iterator[None]:
    """A result that onnx or onnxruntime refuses is the pass's failure; where the road needs it, everybody's.

    Where no data was given, the values that were made up may be at fault: sizes and indices are not any number.
    """
    try:
        yield
    except (InvalidInput, MissingDependency) as error:
        if isinstance(error, PassFailed) or attempt.essential:
            raise
        made_up = "" if ctx.data or ctx.validation else "the inputs were made up: give real ones with --data; or "
        raise PassFailed(f"the result is not usable: {error.problem}", hint=made_up + error.hint) from error


def _same_graph(before: Program, after: Program) -> bool:
    """Whether a pass left the graph as it was: then nothing has to be run again to compare it."""
    if before.level is not after.level:
        return False
    return before.model is after.model or (before.level is Level.ONNX and before.onnx_bytes == after.onnx_bytes)


def _costs(before: Program, after: Program, ctx: Context) -> tuple[float, float] | None:
    if before.level is not Level.ONNX:
        return None
    was, now = (_predicted_s(program, ctx) for program in (before, after))
    return was, now


def _predicted_s(program: Program, ctx: Context) -> float:
    return program.kept(
        f"latency on {ctx.stack.id}",
        lambda: estimate(program.static_model, ctx.stack, as_is=True, quick=True).latency_s,
    )


def _sizes(before: Program, after: Program) -> tuple[int, int] | None:
    return (len(before.onnx_bytes), len(after.onnx_bytes)) if before.level is Level.ONNX else None


def _nodes(before: Program, after: Program) -> tuple[int, int] | None:
    return (before.graph.num_nodes(), after.graph.num_nodes()) if before.level is Level.ONNX else None
