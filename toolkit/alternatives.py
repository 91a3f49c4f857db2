"""The ways in which a model could run, cheapest change first, each priced by the same estimate and with its command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from passes.context import Context
from passes.program import Level, Program
from passes.recipe import RECIPES
from passes.running import run
from passes.signature import TensorSpec
from targets.cost import estimate
from targets.errors import InvalidInput
from targets.estimate import Estimate
from targets.graph import read_workload
from targets.stack import Stack
from targets.target import Target, load_target, target_names
from targets.verdict import Limits, Outcome, Support, Verdict, judge, support_of, worst
from toolkit.cache import DiskCache, fingerprint
from toolkit.data import first_sample
from toolkit.driver import Options
from toolkit.names import IN_MEMORY
from toolkit.sources import Source, load_source

__all__ = ["Candidate", "Way"]

_SHRINK = (7 / 8, 3 / 4, 1 / 2)  # of the side; smaller images lose what they show
_SIDE_STEP = 32  # networks halve their image up to five times
_SMALLEST_IMAGE = 64
_NODES_GROW = 3  # a graph in QDQ has about three times the nodes, and bytes beside its weights, of the float one


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of running a model: what it changes, what it costs, whether it fits, and the command that makes it.

    `change` is none, precision, stack, resolution or target; `size` is bytes of the file with its interval.
    """

    change: str
    description: str
    stack: Stack
    precision: str
    inputs: tuple[str, ...]
    estimate: Estimate
    size: tuple[float, tuple[float, float]]
    verdict: Verdict
    support: Support
    command: str

    @property
    def outcome(self) -> Outcome:
        return worst(self.verdict.outcome, self.support.outcome)

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        found = self.estimate
        return {
            "change": self.change,
            "description": self.description,
            "target": self.stack.target,
            "stack": self.stack.id,
            "precision": self.precision,
            "inputs": list(self.inputs),
            "outcome": str(self.outcome),
            "latency_s": found.latency_s,
            "latency_interval_s": list(found.latency_interval_s),
            "peak_memory_bytes": found.peak_memory_bytes,
            "memory_interval_bytes": list(found.memory_interval_bytes),
            "energy_j": found.energy_j,
            "energy_interval_j": list(found.energy_interval_j),
            "size_bytes": self.size[0],
            "size_interval_bytes": list(self.size[1]),
            "calibrated": found.calibrated,
            "extrapolated": found.extrapolated,
            "provenance": found.provenance,
            "checks": self.verdict.to_json()["checks"],
            "support": self.support.to_json(),
            "command": self.command,
        }


class Candidate:
    """A model that is exported once and priced on as many stacks as are asked for."""

    def __init__(self, model: Any, options: Options) -> None:
        self.options = options
        self._model = model
        self._source = self._load(options.inputs)
        self._start = self._source.program
        self._graphs: dict[str, Program] = {}

    @property
    def name(self) -> str:
        return self._source.program.name

    # ---- the ways, by rising cost of the change

    def on(self, stack: Stack, limits: Limits) -> list[Way]:
        """As it is in float32, where the stack runs that too, and in the stack's own precision."""
        program = self._graph(stack)
        own = self._way("precision", stack, limits)
        if not own.estimate.assumed_dtype:
            text = f"{stack.precision}, as it is" if own.precision == stack.precision else "as it is"
            return [replace(own, change="none", description=text)]
        if stack.loads_float32:
            return [replace(own, change="none", description=f"{own.precision}, to which the runtime converts it")]
        found = estimate(program.static_model, stack, as_is=True)
        size = float(len(program.onnx_bytes))
        as_it_is = Way(
            change="none",
            description="float32, as it is",
            stack=stack,
            precision="fp32",
            inputs=tuple(self.options.inputs),
            estimate=found,
            size=(size, (size, size)),
            verdict=judge(found, limits, size=(size, (size, size))),
            support=support_of(found, stack),
            command=self._command(stack, recipe="float32"),
        )
        return [as_it_is, own]

    def on_other_stacks(self, target: Target, asked: Stack, limits: Limits) -> Iterator[Way]:
        """The target's other stacks in their own precision; those that were measured come first."""
        known = {asked.id, asked.float_stack}
        others = [s for s in target.stacks.values() if s.id not in known and s.batch == 1]
        for stack in sorted(others, key=lambda s: not s.latency.calibrated):
            yield self._way("stack", stack, limits)

    def at_smaller_resolution(self, stack: Stack, limits: Limits) -> Iterator[Way]:
        """Smaller images, largest first, where the model takes them; none where even the smallest is not enough."""
        smaller = self._smaller_inputs()
        if not smaller:
            return
        smallest = self._resized(smaller[-1], stack, limits)
        if smallest is not None and smallest.outcome is Outcome.FITS:
            for text in smaller[:-1]:
                if way := self._resized(text, stack, limits):
                    yield way
        if smallest is not None:
            yield smallest

    def on_other_targets(self, target: Target, limits: Limits, *, own_memory: bool) -> Iterator[Way]:
        """Other devices, the most frugal first; with `own_memory` each is held to what it can spare itself."""
        others = [load_target(name) for name in target_names() if name != target.name]
        for other in sorted(others, key=lambda t: (t.power_budget_w, t.memory_bytes)):
            stacks = [other.stack(), *other.stacks.values()]
            stack = next((s for s in stacks if s.batch == 1), None)
            if stack is not None:
                spare = other.usable_memory_bytes if own_memory else limits.memory_bytes
                yield self._way("target", stack, replace(limits, memory_bytes=spare))

    # ---- how one is priced

    def _way(self, change: str, stack: Stack, limits: Limits) -> Way:
        program = self._graph(stack)
        found = estimate(program.static_model, stack)
        precision = stack.precision if found.assumed_dtype or stack.dtype == "float32" else "as it is"
        where = {"stack": f" on {stack.name}", "target": f" on {stack.id}"}.get(change, "")
        needs_data = bool(found.assumed_dtype) and stack.precision == "int8"
        size = _file_size(program, found, stack)
        return Way(
            change=change,
            description=f"{precision}{where}",
            stack=stack,
            precision=precision,
            inputs=tuple(self.options.inputs),
            estimate=found,
            size=size,
            verdict=judge(found, limits, size=size),
            support=support_of(found, stack),
            command=self._command(stack, data=needs_data),
        )

    def _graph(self, stack: Stack) -> Program:
        """The float32 graph that `stack` would get; the module is exported the first time only."""
        recipe = RECIPES["float32"](stack, self._start.level)
        key = json.dumps(recipe.to_data())
        if key not in self._graphs:
            ctx = Context(stack=stack, seed=self.options.seed, progress=self.options.progress)
            cache = DiskCache() if self.options.cache else None
            outcome = run(recipe, self._start, ctx, cache=cache, fingerprint=fingerprint())
            if self._start.level is Level.TORCH:
                self._start = outcome.exported
                key = json.dumps(RECIPES["float32"](stack, Level.ONNX).to_data())
            self._graphs[key] = outcome.program
        return self._graphs[key]

    def _load(self, inputs: Sequence[str]) -> Source:
        options = self.options
        return load_source(self._model, inputs=list(inputs), fixed=options.fixed,
                           sample=first_sample(options.data), trust=options.trust)  # fmt: skip

    # ---- smaller images

    def _smaller_inputs(self) -> list[str]:
        """`--input` for smaller images, largest first; empty where the model fixes its size or takes no image."""
        program = self._source.program
        images = [s for s in program.signature.inputs if len(s.shape) == 4]
        if len(program.signature.inputs) != 1 or not images or images[0].dtype != "float32":
            return []
        batch, channels, height, width = program.example[images[0].name].shape
        if channels > 4 or min(height, width) < _SMALLEST_IMAGE or not self._size_may_vary(images[0]):
            return []
        sides = [tuple(round(n * share / _SIDE_STEP) * _SIDE_STEP for n in (height, width)) for share in _SHRINK]
        wanted = [(h, w) for h, w in dict.fromkeys(sides) if 0 < h < height and 0 < w < width]
        return [f"{images[0].name}={batch}x{channels}x{h}x{w}" for h, w in wanted]

    def _size_may_vary(self, image: TensorSpec) -> bool:
        """A module may take any size and is asked; a graph says which of its dimensions vary."""
        if self._source.program.level is Level.TORCH:
            return True
        spec = next(s for s in self._load(()).program.signature.inputs if s.name == image.name)
        return all(isinstance(d, str) for d in spec.shape[2:])

    def _resized(self, text: str, stack: Stack, limits: Limits) -> Way | None:
        """The model on an image of another size, in the stack's own precision; None where it does not take it."""
        try:
            smaller = Candidate(self._model, replace(self.options, inputs=[text]))
            way = smaller.on(stack, limits)[-1]
        except InvalidInput:
            return None  # the module was written for one size
        return replace(way, change="resolution", description=f"{way.precision}, input {text.partition('=')[2]}")

    # ---- commands

    def _command(self, stack: Stack, *, recipe: str = "", data: bool = False) -> str:
        """What to type, or to write in Python for a model in memory."""
        default = load_target(stack.target).default_stack == stack.name
        given = self.options.data if isinstance(self.options.data, str) else ""
        samples = given or ("SAMPLES" if data and self._source.data is None else "")
        if self._source.spec == IN_MEMORY:
            named = {"target": stack.target, "stack": "" if default else stack.name, "recipe": recipe}
            said = [f'{key}="{value}"' for key, value in named.items() if value]
            said += [f"inputs={list(self.options.inputs)}"] if self.options.inputs else []
            said += [f"fixed={list(self.options.fixed)}"] if self.options.fixed else []
            said += ["data=samples"] if data else []
            return f"toolkit.compile(model, {', '.join(said)})"
        parts = ["toolkit", "compile", self._source.spec, "--target", stack.target]
        parts += [] if default else ["--stack", stack.name]
        parts += [word for text in self.options.inputs for word in ("--input", text)]
        parts += [word for text in self.options.fixed for word in ("--fix", text)]
        parts += ["--recipe", recipe] if recipe else []
        parts += ["--data", samples] if samples else []
        parts += ["--preprocess", self.options.preprocess] if given and self.options.preprocess else []
        parts += ["--trust"] if self.options.trust else []
        return shlex.join(parts)


def _file_size(program: Program, found: Estimate, stack: Stack) -> tuple[float, tuple[float, float]]:
    """Bytes of the file and their interval: exact as it is; in another precision, its weights beside a grown graph."""
    now = float(len(program.onnx_bytes))
    if not found.assumed_dtype or stack.loads_float32:
        return now, (now, now)
    graph = max(0.0, now - read_workload(program.static_model).weight_bytes)
    grown = graph * (_NODES_GROW if stack.precision == "int8" else 1)
    return found.weight_bytes + grown, (found.weight_bytes + graph / 2, found.weight_bytes + 2 * grown)
