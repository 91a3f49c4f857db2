"""Write a network otherwise so that it stays on an accelerator or needs less: applied, run, priced again, then told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from passes.compare import compare
from passes.contract import EXACT_SQNR_DB, Kind
from passes.dataset import Dataset
from passes.onnx_level.spellings import SPELLINGS, Spelling, respell
from passes.program import Program
from passes.structure import check_structure
from targets.cost import estimate
from targets.errors import InvalidInput, MissingDependency
from targets.estimate import Estimate, OperatorCost
from targets.stack import Stack
from targets.support import load_rules
from targets.verdict import is_cause, leaving_price

__all__ = ["Exchange", "Fallback", "Rewritten", "keep_on", "simpler_activations"]


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Operators of one kind that were written otherwise. `kind` is exact, approximate or retrained."""

    name: str
    replaces: str
    says: str
    kind: str
    count: int
    caution: str = ""


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A network after `exchanges`, which was run: its answers are `sqnr_db` from those of the network as it came.

    `kind` is the furthest from exact that the exchanges and the measured difference allow.
    """

    program: Program
    exchanges: tuple[Exchange, ...]
    sqnr_db: float
    max_abs_error: float
    data: str
    samples: int

    @property
    def kind(self) -> Kind:
        order = list(Kind)
        worst = max((Kind(e.kind) for e in self.exchanges), key=order.index, default=Kind.EXACT)
        drifted = worst is Kind.EXACT and self.sqnr_db < EXACT_SQNR_DB["float32"]
        return Kind.APPROXIMATE if drifted else worst

    @property
    def said(self) -> str:
        """The exchanges in a few words: what becomes something else, and what is only written otherwise."""
        tuned = [f"{e.replaces} as {e.says}" for e in self.exchanges if e.kind == Kind.RETRAINED]
        kept = list(dict.fromkeys(e.replaces for e in self.exchanges if e.kind != Kind.RETRAINED))
        return ", ".join([*tuned, *([f"{' and '.join(kept)} rewritten"] if kept else [])])

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": str(self.kind),
            "exchanges": [e.__dict__ for e in self.exchanges],
            "sqnr_db": self.sqnr_db if abs(self.sqnr_db) < inf else None,
            "identical": self.sqnr_db == inf,
            "max_abs_error": self.max_abs_error,
            "data": self.data,
            "samples": self.samples,
        }


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """An operator that an accelerator refuses on its own account, what that costs, and what keeps it on.

    Of `price` in seconds, `own_s` is its time on the host, `copies_s` moves tensors over the link and `dragged_s` is
    the time of the `followers` that leave because it does. `remedy` was applied to every operator of its kind together
    with the remedies of those before it; from `before_s` the whole network came to `after_s`. `failed` says why a known
    remedy could not be tried.
    """

    name: str
    op_type: str
    module: str
    source: str
    reason: str
    price: Mapping[str, float]
    followers: int
    remedy: Rewritten | None = None
    before_s: float = 0.0
    after_s: float = 0.0
    after_interval_s: tuple[float, float] = (0.0, 0.0)
    failed: str = ""

    @property
    def gain_s(self) -> float:
        return self.before_s - self.after_s if self.remedy else 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        return {
            "name": self.name,
            "op_type": self.op_type,
            "module": self.module,
            "source": self.source,
            "reason": self.reason,
            **self.price,
            "followers": self.followers,
            "remedy": self.remedy.to_json() if self.remedy else None,
            "before_s": self.before_s,
            "after_s": self.after_s if self.remedy else None,
            "after_interval_s": list(self.after_interval_s) if self.remedy else None,
            "gain_s": self.gain_s if self.remedy else None,
            "failed": self.failed,
        }


def keep_on(program: Program, stack: Stack, data: Dataset) -> list[Fallback]:
    """The operators that leave the accelerator of `stack`, one after the other, each with its remedy applied.

    On an accelerator that runs one partition the next refusal shows only once the one before it is mended; the list
    ends at the first for which no remedy is known. Answers are compared on `data`.
    """
    return _mend(program, program, {}, stack, data)


_SMOOTH = [name for name in SPELLINGS if name.endswith("_relu6")]


def simpler_activations(program: Program, stack: Stack, data: Dataset) -> list[Rewritten]:
    """The network with activations that cost less on `stack`: SiLU as HardSwish, and every smooth one as ReLU6.

    Only those that make it faster there, with what else leaves an accelerator mended as well; weights have to be tuned
    to either.

    Raises:
        InvalidInput, MissingDependency: the rewriter or onnxruntime does not take this graph.
    """
    now = estimate(program.static_model, stack)
    found = []
    for names in (["silu_hard_swish"], _SMOOTH) if _is_float(now, stack) else ():
        changed, counts = respell(program, names)
        if not counts:
            continue
        mended = [f.remedy for f in _mend(program, changed, counts, stack, data) if f.remedy]
        remedy = mended[-1] if mended else _run(program, changed, counts, data)
        if remedy is not None and estimate(remedy.program.static_model, stack).latency_s < now.latency_s:
            found.append(remedy)
    return found


def _mend(
    before: Program, start: Program, used: Mapping[str, int], stack: Stack, data: Dataset
) -> list[Fallback]:  # fmt: skip
    """What leaves in `start`, mended one kind after the other; `used` is what already sets it apart from `before`."""
    found: list[Fallback] = []
    current, now = start, estimate(start.static_model, stack)
    while causes := _causes(now):
        priced = _priced(causes[0], now)
        names = _remedies(causes[0], stack) if _is_float(now, stack) else []
        failed = ""
        try:
            changed, counts = respell(current, names)
            used = {**used, **counts}
            remedy = _run(before, changed, used, data) if counts else None
        except (InvalidInput, MissingDependency) as refusal:  # a graph that onnxruntime or the rewriter does not take
            remedy, failed = None, refusal.problem
        if remedy is None:
            return [*found, replace(priced, failed=failed), *(_priced(op, now) for op in causes[1:])]
        now, current = estimate(changed.static_model, stack), changed
        found.append(replace(priced, remedy=remedy, after_s=now.latency_s, after_interval_s=now.latency_interval_s))
    return found


def _is_float(found: Estimate, stack: Stack) -> bool:
    """Whether the float network is priced: in one that is quantized, operators that are new would stay in float."""
    return bool(found.assumed_dtype) or stack.dtype == "float32"


def _causes(found: Estimate) -> list[OperatorCost]:
    """Operators that leave on their own account, the dearest first where there are several."""
    return sorted((op for op in found.fallbacks if is_cause(op)), key=lambda op: -op.latency_s)


def _priced(op: OperatorCost, found: Estimate) -> Fallback:
    return Fallback(
        name=op.name,
        op_type=op.op_type,
        module=op.module,
        source=op.source,
        reason=op.reason,
        price=leaving_price(op, found),
        followers=sum(not is_cause(other) for other in found.fallbacks),
        before_s=found.latency_s,
    )


def _remedies(op: OperatorCost, stack: Stack) -> list[str]:
    """Spellings of what the accelerator does not have in `op`, nearest first."""
    missing = {kind for kind in (op.op_type, *op.fused) if kind not in load_rules(stack.rules).operators}
    return [name for name, spelling in SPELLINGS.items() if spelling.op_type in missing]


def _run(before: Program, after: Program, counts: Mapping[str, int], data: Dataset) -> Rewritten | None:
    """Both networks on the same samples; None where an answer of the new one is not finite or has another shape."""
    check_structure(after)
    drifts = compare(before, after, data)
    worst = min((d.sqnr_db for d in drifts), default=inf)
    if worst == -inf:
        return None
    return Rewritten(
        program=after,
        exchanges=tuple(_exchange(SPELLINGS[name], count) for name, count in counts.items()),
        sqnr_db=worst,
        max_abs_error=max((d.max_abs_error for d in drifts), default=0.0),
        data=data.name,
        samples=len(data),
    )


def _exchange(spelling: Spelling, count: int) -> Exchange:
    return Exchange(
        name=spelling.name,
        replaces=spelling.replaces,
        says=spelling.says,
        kind=str(spelling.kind),
        count=count,
        caution=spelling.caution,
    )
