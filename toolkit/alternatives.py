"""The ways in which a model could run, cheapest change first, each priced by the same estimate and with its command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from passes.context import Context, synthetic_data
from passes.contract import Kind
from passes.dataset import Dataset
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
from targets.verdict import Limits, Outcome, judge, support_of, worst
from toolkit.cache import DiskCache, fingerprint
from toolkit.data import first_sample, load_data
from toolkit.driver import Options
from toolkit.names import IN_MEMORY
from toolkit.remedies import Fallback, Rewritten, keep_on, simpler_activations
from toolkit.slimming import Slimmed, slimmest
from toolkit.sources import Source, load_source
from toolkit.varying_sizes import check_sizes, size_notes
from toolkit.ways import Training, Way

__all__ = ["Candidate"]

_CHANGED = "changed"  # folder that commands name for networks that were changed
_SHRINK = (7 / 8, 3 / 4, 1 / 2)  # of the side; smaller images lose what they show
_SIDE_STEP = 32  # networks halve their image up to five times
_SMALLEST_IMAGE = 64
_COMPARED = 4  # samples that a rewritten network is run on
_NODES_GROW = 3  # a graph in QDQ has about three times the nodes, and bytes beside its weights, of the float one


class Candidate:
    """A model that is exported once and priced on as many stacks as are asked for."""

    def __init__(self, model: Any, options: Options, *, folder: str | Path = _CHANGED) -> None:
        self.options, self.folder = options, Path(folder)
        self._model = model
        self._source = self._load(options.inputs)
        self._start = self._source.program
        check_sizes(self._start)
        self._graphs: dict[str, Program] = {}

    @property
    def name(self) -> str:
        return self._source.program.name

    @property
    def notes(self) -> tuple[str, ...]:
        """At which sizes inputs that may vary are priced."""
        return size_notes(self._start)

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
            support=support_of(found, stack, program.static_model),
            command=self._command(stack, recipe="float32"),
        )
        return [as_it_is, own]

    def on_other_stacks(self, target: Target, asked: Stack, limits: Limits) -> Iterator[Way]:
        """The target's other stacks in their own precision; those that were measured come first.

        Programs are left out: nobody tuned them, so no one is sent to them for their speed.
        """
        known = {asked.id, asked.float_stack}
        others = [s for s in target.stacks.values() if s.id not in known and s.batch == 1]
        others = [s for s in others if not s.superseded_by and not s.machine]
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

    # ---- other networks

    def fallbacks(self, stack: Stack) -> list[Fallback]:
        """What leaves the accelerator of `stack`, priced, each with its remedy; nothing on other stacks."""
        if not stack.rules:
            return []
        self.options.progress("operators that leave the accelerator", 0.0)
        return keep_on(self._graph(stack), stack, self._samples)

    def rewritten(self, fallbacks: Sequence[Fallback], stack: Stack, limits: Limits) -> list[Way]:
        """The network in operators that the accelerator takes: the exact exchanges alone, then all; where they pay."""
        if not fallbacks:
            return []
        mended = [f for f in fallbacks if f.remedy]
        exact = [f for f in mended if f.remedy and f.remedy.kind is Kind.EXACT]
        chosen = {f[-1].after_s: f[-1].remedy for f in (exact, mended) if f and f[-1].after_s < fallbacks[0].before_s}
        return [self._rewritten("rewrite", remedy, stack, limits) for remedy in chosen.values() if remedy]

    def with_simpler_activations(self, stack: Stack, limits: Limits) -> list[Way]:
        """The network with HardSwish for SiLU, and with ReLU6 for every smooth activation, where that is faster."""
        found = simpler_activations(self._graph(stack), stack, self._samples)
        return [self._rewritten("activation", remedy, stack, limits) for remedy in found]

    def slimmer(self, stack: Stack, limits: Limits, *, trunk: bool, after: Rewritten | None = None) -> Way:
        """The network with as few channels removed as it takes to fit: inside its blocks, or with `trunk` everywhere.

        It starts from the network that was written otherwise where `after` gives one.

        Raises:
            PassFailed: no layer can lose a channel.
            InvalidInput, MissingDependency: onnxruntime does not run the graph.
        """
        change = "width" if trunk else "prune"
        self.options.progress("fewer channels", 0.5 if trunk else 0.0)

        def fits(program: Program) -> bool:
            priced = estimate(program.static_model, stack)
            size = _file_size(program, priced, stack) if limits.size_bytes is not None else None
            support = support_of(priced, stack, program.static_model)
            return worst(judge(priced, limits, size=size).outcome, support.outcome) is Outcome.FITS

        found = slimmest(after.program if after else self._graph(stack), stack, fits, trunk=trunk)
        way = self._changed(found.program, stack, limits, change=change, description=change)
        said = f"{after.said}, " if after else ""
        return replace(
            way,
            description=f"{way.precision}, {said}{_slimmed(found, trunk)}",
            slug=f"{self.name}-{change}-{found.share * 100:.0f}",
            share=found.share,
            rewritten=after,
            training=Training.TRAIN if trunk else Training.FINE_TUNE,
        )

    def _rewritten(self, change: str, remedy: Rewritten, stack: Stack, limits: Limits) -> Way:
        training = {Kind.EXACT: Training.NONE, Kind.APPROXIMATE: Training.VALIDATE}.get(remedy.kind, Training.FINE_TUNE)
        way = self._changed(remedy.program, stack, limits, change=change, description=remedy.said, training=training)
        names = "-".join(dict.fromkeys(e.name for e in remedy.exchanges))
        slug = f"{self.name}-{names}"
        command = self._two_commands(slug, stack, way) if training is not Training.FINE_TUNE else ""
        return replace(
            way, description=f"{way.precision}, {remedy.said}", slug=slug, rewritten=remedy, command=command
        )  # fmt: skip

    def _changed(self, program: Program, stack: Stack, limits: Limits, **fields: Any) -> Way:
        """Another network on the same stack, in its own precision."""
        found = estimate(program.static_model, stack)
        size = _file_size(program, found, stack)
        return Way(
            stack=stack,
            precision=self._precision(found, stack),
            inputs=tuple(self.options.inputs),
            estimate=found,
            size=size,
            verdict=judge(found, limits, size=size),
            support=support_of(found, stack, program.static_model),
            command="",
            graph=program,
            **fields,
        )

    @cached_property
    def _samples(self) -> Dataset:
        """What rewritten networks are compared on: the user's samples, those of the model, else noise."""
        options, program = self.options, self._start
        given = load_data(options.data, program.signature, preprocess=options.preprocess) if options.data else None
        data = given or self._source.data
        if data is None:
            return synthetic_data(program.signature, options.seed, _COMPARED, example=program.example)
        return data.take(_COMPARED)

    # ---- how one is priced

    def _way(self, change: str, stack: Stack, limits: Limits) -> Way:
        program = self._graph(stack)
        found = estimate(program.static_model, stack)
        precision = self._precision(found, stack)
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
            support=support_of(found, stack, program.static_model),
            command=self._command(stack, data=needs_data),
        )

    def _precision(self, found: Estimate, stack: Stack) -> str:
        return stack.precision if found.assumed_dtype or stack.dtype == "float32" else "as it is"

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
        said = f"{way.precision}, input {text.partition('=')[2]}"
        return replace(way, change="resolution", description=said, training=Training.VALIDATE)

    # ---- commands

    def _two_commands(self, slug: str, stack: Stack, way: Way) -> str:
        """Write the changed graph, then compile it."""
        data = bool(way.estimate.assumed_dtype) and stack.precision == "int8"
        write = self._command(stack, verb="check")
        if self._source.spec == IN_MEMORY:
            write = f'{write.removesuffix(")")}, save="{self.folder}")'
        else:
            write = f"{write} --save {shlex.quote(str(self.folder))}"
        return f"{write}\n{self._command(stack, spec=str(self.folder / slug) + '.onnx', data=data)}"

    def _command(
        self, stack: Stack, *, recipe: str = "", data: bool = False, verb: str = "compile", spec: str = ""
    ) -> str:  # fmt: skip
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
            return f"toolkit.{verb}({repr(spec) if spec else 'model'}, {', '.join(said)})"
        parts = ["toolkit", verb, spec or self._source.spec, "--target", stack.target]
        parts += [] if default else ["--stack", stack.name]
        parts += [word for text in self.options.inputs for word in ("--input", text)]
        parts += [word for text in self.options.fixed for word in ("--fix", text)]
        parts += ["--recipe", recipe] if recipe else []
        parts += ["--data", samples] if samples else []
        parts += ["--preprocess", self.options.preprocess] if given and self.options.preprocess else []
        parts += ["--trust"] if self.options.trust else []
        return shlex.join(parts)


def _slimmed(found: Slimmed, trunk: bool) -> str:
    where = "of every layer" if trunk else "inside the blocks"
    return f"without {found.share:.0%} of the channels {where}"


def _file_size(program: Program, found: Estimate, stack: Stack) -> tuple[float, tuple[float, float]]:
    """Bytes of the file and their interval: exact as it is; in another precision, its weights beside a grown graph."""
    now = float(len(program.onnx_bytes))
    if not found.assumed_dtype or stack.loads_float32:
        return now, (now, now)
    graph = max(0.0, now - read_workload(program.static_model).weight_bytes)
    grown = graph * (_NODES_GROW if stack.precision == "int8" else 1)
    return found.weight_bytes + grown, (found.weight_bytes + graph / 2, found.weight_bytes + 2 * grown)
