"""How small the character model gets at equal perplexity, and what each step of the way bought.

Two ways down, for eight times smaller and for sixteen. Nothing is reverted on the way: what a step costs is
what is asked. Training is checkpointed in the cache folder: a run that was cut off goes on, the next one only measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from passes.context import Budget, Context
from passes.contract import Pass
from passes.dataset import Dataset, Sample
from passes.onnx_level.pack_weights import PackWeights
from passes.onnx_level.shorten_names import ShortenNames
from passes.onnxruntime import Session
from passes.program import Level, Program
from passes.proof import Decision
from passes.recipe import Recipe, float32
from passes.running import run
from passes.torch_level.distil import Distil
from passes.torch_level.prune_channels import PruneChannels
from passes.torch_level.qat import TrainQuantized
from targets.cost import estimate
from targets.target import load_stack, load_target, target_names
from toolkit.bench import characters
from toolkit.bench.timing import in_turns_s

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SEEN_AS_IT_IS", "STACK", "WAYS", "Row", "in_order", "steps"]

FLOAT, AS_LONG = "float32", "as long"
_RATE = 2e-3
STACK = load_stack("desktop_cpu/onnxruntime-int8")
SEEN_AS_IT_IS = Budget(min_sqnr_db=-1e9, max_metric_drop=1.0)
"""Nothing is reverted."""


def _way(ratio: float, epochs: int) -> Mapping[str, tuple[Pass, ...]]:
    """Passes by the name of the step, each on top of those before."""
    return {
        "prune": (PruneChannels(ratio=ratio, importance="taylor", global_=False, epochs=0),),
        "distil": (Distil(epochs=epochs, rate=_RATE),),
        "4-bit QAT": (TrainQuantized(activation="uint8", weight_bits=4, epochs=1, rate=5e-4),),
        "pack": (PackWeights(), ShortenNames()),
    }


WAYS: Mapping[str, Mapping[str, tuple[Pass, ...]]] = {"8x": _way(0.1, 2), "16x": _way(0.58, 4)}
"""Channels that are left get the same share of every layer: of 4 bits every layer wants some."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The network after a step.

    Args:
        smaller, worse: Bytes of the float32 file to these, and this perplexity over its own.
        latency_s: Median of one window on this machine with one thread, all rows in turns.
        predicted_s: By target, in its default stack's own precision where the file has it, else in float.
        notes: What a pass of the step did not do, or only in part.
    """

    way: str
    step: str
    size_bytes: int
    perplexity: float
    smaller: float = 1.0
    worse: float = 0.0
    latency_s: float = 0.0
    predicted_s: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def steps(ways: Sequence[str] = tuple(WAYS), *, as_long: bool = False) -> Iterator[Row]:
    """The float32 network, then each way step by step; what they share is trained once.

    Args:
        as_long: Set beside each way the float32 network, trained for as many more epochs as the way takes.
    """
    model = characters.trained()
    trained = characters.program(model)
    ctx = Context(stack=STACK, data=_renamed(trained), fit=characters.trainer(), budget=SEEN_AS_IT_IS)
    made = {("", FLOAT): _made((), trained, ctx)}
    for way in ways:
        if as_long:
            made[way, AS_LONG] = _made((), characters.program(_trained_on(model, way)), ctx)
        passes: tuple[Pass, ...] = ()
        for step, added in WAYS[way].items():
            passes += added
            made[way, step] = _made(passes, trained, ctx)
    times = _measured([program for program, _ in made.values()])
    first: Row | None = None
    for ((way, step), (program, notes)), latency_s in zip(made.items(), times, strict=True):
        content = program.onnx_bytes
        row = Row(way=way, step=step, size_bytes=len(content), perplexity=characters.perplexity(content),
                  latency_s=latency_s, predicted_s=_predicted(program), notes=notes)  # fmt: skip
        first = first or row
        yield replace(row, smaller=first.size_bytes / row.size_bytes, worse=row.perplexity / first.perplexity - 1)


def _trained_on(model: nn.Module, way: str) -> nn.Module:
    epochs = sum(step.settings.get("epochs", 0) for added in WAYS[way].values() for step in added)
    fit = characters.trainer()
    return fit(model, characters.next_character, step=f"{AS_LONG}, {way}", epochs=epochs, rate=_RATE).eval()


def _renamed(program: Program) -> Dataset:
    return characters.named(characters.calibration(), program.signature.inputs[0].name)


def _made(added: Sequence[Pass], program: Program, ctx: Context) -> tuple[Program, tuple[str, ...]]:
    """What comes of `program` by recipe float32 with the passes that are added, and what those did not do."""
    outcome = run(Recipe(FLOAT, in_order(added)), program, ctx)
    names = {step.name for step in added}
    undone = [p for p in outcome.proofs if p.name in names and p.decision is not Decision.KEPT]
    return outcome.program, tuple(f"{p.name}: {p.reason}" for p in undone)


def in_order(added: Sequence[Pass]) -> tuple[Pass, ...]:
    """Passes on modules go in front of the export, before or behind the folding that they need; others come last."""
    plain = float32(STACK, Level.TORCH).passes
    folding = next(i for i, step in enumerate(plain) if "module_batch_norm_folded" in step.gives)
    export = next(i for i, step in enumerate(plain) if step.becomes is Level.ONNX)
    modules = [step for step in added if step.level is Level.TORCH]
    folded = [step for step in modules if "module_batch_norm_folded" in step.needs]
    whole = [step for step in modules if step not in folded]
    graphs = [step for step in added if step.level is Level.ONNX]
    return (*plain[:folding], *whole, *plain[folding:export], *folded, *plain[export:], *graphs)


def _measured(programs: Sequence[Program]) -> list[float]:
    """Median seconds of one window on this machine, all in turns."""
    sample: Sample = next(iter(_renamed(programs[0])))
    sessions = {str(i): Session(program.onnx_bytes) for i, program in enumerate(programs)}
    durations = in_turns_s({name: partial(session, sample) for name, session in sessions.items()})
    return [median(durations[name]) for name in sessions]


def _predicted(program: Program) -> dict[str, float]:
    stacks = {name: load_target(name).stack(None) for name in target_names()}
    return {name: estimate(program.static_model, stack, as_is=True).latency_s for name, stack in stacks.items()}
