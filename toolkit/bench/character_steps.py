"""How small the character model gets at equal perplexity, and what each step of the way bought.

Two ways down, for eight times smaller and for sixteen. Nothing is reverted on the way: what a step costs is
what is asked. Training is checkpointed in the cache folder: a run that was cut off goes on, the next one only measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from passes.context import Context
from passes.contract import Pass
from passes.dataset import Dataset
from passes.onnx_level.pack_weights import PackWeights
from passes.onnx_level.shorten_names import ShortenNames
from passes.program import Program
from passes.torch_level.distil import Distil
from passes.torch_level.prune_channels import PruneChannels
from passes.torch_level.qat import TrainQuantized
from toolkit.bench import characters
from toolkit.bench.steps import FLOAT, SEEN_AS_IT_IS, STACK, Made, ladder, measured_s, predicted_s

if TYPE_CHECKING:
    from torch import nn

__all__ = ["WAYS", "Row", "steps"]

AS_LONG = "as long"
_RATE = 2e-3


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
    made: dict[tuple[str, str], Made] = {}
    for way in ways:
        found = ladder(WAYS[way], trained, ctx)
        made.setdefault(("", FLOAT), found.pop(FLOAT))
        if as_long:
            made[way, AS_LONG] = ladder({}, characters.program(_trained_on(model, way)), ctx)[FLOAT]
        made |= {(way, step): result for step, result in found.items()}
    times = measured_s({" ".join(key): result.program for key, result in made.items()}, next(iter(_renamed(trained))))
    first: Row | None = None
    for (way, step), result in made.items():
        content = result.program.onnx_bytes
        row = Row(way=way, step=step, size_bytes=len(content), perplexity=characters.perplexity(content),
                  latency_s=times[f"{way} {step}"], predicted_s=predicted_s(result.program),
                  notes=result.notes)  # fmt: skip
        first = first or row
        yield replace(row, smaller=first.size_bytes / row.size_bytes, worse=row.perplexity / first.perplexity - 1)


def _trained_on(model: nn.Module, way: str) -> nn.Module:
    epochs = sum(step.settings.get("epochs", 0) for added in WAYS[way].values() for step in added)
    fit = characters.trainer()
    return fit(model, characters.next_character, step=f"{AS_LONG}, {way}", epochs=epochs, rate=_RATE).eval()


def _renamed(program: Program) -> Dataset:
    return characters.named(characters.calibration(), program.signature.inputs[0].name)
