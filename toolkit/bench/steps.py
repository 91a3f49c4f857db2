"""What the benches of compression share: recipes, each one step longer than the last, and what their results cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from passes.context import Budget, Context
from passes.contract import Pass
from passes.dataset import Sample
from passes.onnxruntime import Session
from passes.program import Level, Program
from passes.proof import Decision
from passes.recipe import Recipe, float32
from passes.running import run
from targets.cost import estimate
from targets.target import load_stack, load_target, target_names
from toolkit.timing import in_turns_s

__all__ = ["FLOAT", "SEEN_AS_IT_IS", "STACK", "Made", "in_order", "ladder", "measured_s", "predicted_s"]

FLOAT = "float32"
STACK = load_stack("desktop_cpu/onnxruntime-int8")
SEEN_AS_IT_IS = Budget(min_sqnr_db=-1e9, max_metric_drop=1.0)
"""Nothing is reverted: what a step costs is what is asked."""


@dataclass(frozen=True)
class Made:
    """A network after a step; `notes` say what a pass of the step did not do, or only in part."""

    program: Program
    notes: tuple[str, ...] = ()


def ladder(steps: Mapping[str, tuple[Pass, ...]], program: Program, ctx: Context) -> dict[str, Made]:
    """The float network, then `program` after each step on top of those before; what they share is trained once."""
    passes: tuple[Pass, ...] = ()
    found = {}
    for step, added in {FLOAT: (), **steps}.items():
        passes += added
        outcome = run(Recipe(step, in_order(passes)), program, ctx)
        proofs = [p for p in outcome.proofs if p.name in {a.name for a in added} and p.decision is not Decision.KEPT]
        found[step] = Made(outcome.program, tuple(f"{p.name} {p.decision}: {p.reason}" for p in proofs))
    return found


def in_order(added: Sequence[Pass]) -> tuple[Pass, ...]:
    """Recipe float32 with passes on modules in front of the export, before or behind the folding that they need, and
    passes on graphs at the end."""
    plain = float32(STACK, Level.TORCH).passes
    folding = next(i for i, step in enumerate(plain) if "module_batch_norm_folded" in step.gives)
    export = next(i for i, step in enumerate(plain) if step.becomes is Level.ONNX)
    modules = [step for step in added if step.level is Level.TORCH]
    folded = [step for step in modules if "module_batch_norm_folded" in step.needs]
    whole = [step for step in modules if step not in folded]
    graphs = [step for step in added if step.level is Level.ONNX]
    return (*plain[:folding], *whole, *plain[folding:export], *folded, *plain[export:], *graphs)


def measured_s(programs: Mapping[str, Program], sample: Sample) -> dict[str, float]:
    """Median seconds of one inference on this machine with one thread, all in turns."""
    sessions = {name: Session(program.onnx_bytes) for name, program in programs.items()}
    durations = in_turns_s({name: partial(session, sample) for name, session in sessions.items()})
    return {name: median(durations[name]) for name in sessions}


def predicted_s(program: Program) -> dict[str, float]:
    """By target, on its default stack in the precision of the file."""
    stacks = {name: load_target(name).stack(None) for name in target_names()}
    return {name: estimate(program.static_model, stack, as_is=True).latency_s for name, stack in stacks.items()}
