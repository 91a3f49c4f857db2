"""The road, readable on one screen: source, passes, backend, estimate, proof, bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from passes.compare import compare_metric
from passes.context import Budget, Context, Fit
from passes.dataset import Dataset
from passes.metric import TOP1
from passes.onnx_level.branch_shares import has_branches, note_branch_shares
from passes.onnx_level.shorten_names import names_of
from passes.program import Level, Program
from passes.proof import MetricChange, Proof
from passes.recipe import RECIPES, Recipe, recipe_for
from passes.running import Outcome, run
from passes.structure import SPRAWLING_NODES
from passes.torch_level.clean_up_module import CleanUpModule
from passes.torch_level.export import LOWEST_OPSET, Export
from targets.cost import estimate
from targets.errors import InvalidInput, UnknownName
from targets.estimate import Estimate
from targets.scaling import scaled
from targets.stack import Stack
from targets.target import Target, load_target
from targets.verdict import Limits, judge
from toolkit.backends import BACKENDS
from toolkit.bundle.atomic import replacing_folder
from toolkit.bundle.bill import BILL, bill_of_materials
from toolkit.bundle.bundle import Bundle, open_bundle
from toolkit.bundle.golden import GOLDEN_SAMPLES, write_golden
from toolkit.bundle.layout import MANIFEST, NAMES, TIMINGS
from toolkit.bundle.manifest import (
    dump_json,
    library_versions,
    model_facts,
    recipe_data,
    write_manifest,
    write_recipe,
)
from toolkit.bundle.signing import load_private_key, sign
from toolkit.cache import DiskCache, cache_folder, fingerprint
from toolkit.data import check_preprocess_used, first_sample, load_data
from toolkit.measuring import Measured, Recorded, check_host, decisions
from toolkit.report.document import build_report
from toolkit.report.html import render
from toolkit.report.layers import layer_rows
from toolkit.sources import Source, load_source
from toolkit.standalone.runners import makes_programs, put_linked_runner, put_runner
from toolkit.trainers import TRAINER, trainer_for, trains
from toolkit.varying_sizes import check_sizes, size_notes

__all__ = [
    "Options", "compile_model", "estimate_model", "export_program", "float_program", "load_model",
    "load_program", "program_on", "sprawls",
]  # fmt: skip

_PROOF_SAMPLES = 512  # a proof on more samples would cost more time than it narrows the interval


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a compile may be told beside the model and the target.

    Args:
        stack: Name of the target's stack; its default where None.
        data: Calibration samples; see `toolkit.data.load_data`.
        validation: Labelled samples for proofs; the calibration data where None.
        preprocess: How images among them become inputs; see `toolkit.data.Preprocessing.parse`.
        inputs: Input shapes where the source does not say them; see `toolkit.input_shapes.parse_input`.
        fixed: Inputs that become constants, as `sr=16000`; see `toolkit.fixed_inputs`.
        output: Folder of the bundle; `build/<model>-<target>` where None.
        recipe: Name of a recipe; the one that the stack wants where None.
        passes: The passes themselves, as recipe.yaml holds them.
        trainer: What trains where the recipe has a pass that does; see `toolkit.trainers.trainer_for`.
        measure: Let this machine, where it is of the stack's kind, measure what the stack's model would predict.
        measured: What an earlier measurement decided, as recipe.yaml holds it; nothing is then measured.
        trust: Load files that could run code.
        standalone: Put a runner for the device's processor into the bundle; see `toolkit.standalone.runners`.
        sign: A PEM file with the Ed25519 key that signs the manifest.
        force: Replace an output folder that is not a bundle.
        cache: Keep finished passes and use those of earlier runs.
        dump: Folder that gets the graph after each pass; each is then made anew.
        progress: Called with a step and its share done.
        note: Called with each proof.
    """

    stack: str | None = None
    data: Any = None
    validation: Any = None
    preprocess: str | None = None
    inputs: Sequence[str] = ()
    fixed: Sequence[str] = ()
    output: str | Path | None = None
    recipe: str | None = None
    passes: Sequence[Mapping[str, Any]] | None = None
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    trainer: str | Callable[..., Fit] = TRAINER
    measure: bool = False
    measured: Mapping[str, Sequence[str]] | None = None
    standalone: bool = False
    sign: str | Path | None = None
    trust: bool = False
    force: bool = False
    cache: bool = True
    dump: Path | None = None
    progress: Callable[[str, float], None] = lambda step, done: None
    note: Callable[[Proof], None] = lambda proof: None


def compile_model(model: Any = None, *, target: str, **options: Any) -> Bundle:
    """Make a bundle of `model` for `target`.

    Args:
        model: See `toolkit.sources.load_source`; or what `load_model` made of it.
        options: Fields of `Options`.

    Raises:
        ToolkitError: with what happened and what to do next.
    """
    opts, laps = Options(**options), _Laps()
    key = load_private_key(Path(opts.sign)) if opts.sign else None
    device = load_target(target)
    stack = device.stack(opts.stack)
    opts.progress("loading the model", 0.0)
    source = _load(model, opts)
    pace = _pace(device, stack, opts)
    ctx = replace(_context(source, stack, opts), pace=pace)
    recipe = _recipe(source.program, stack, opts)
    backend = BACKENDS[stack.backend]
    if trains(recipe):
        backend.check(float_program(source, stack, opts), stack)
    ctx = replace(ctx, fit=_fit(recipe, source, ctx, opts))
    folder = Path(opts.output or Path("build") / f"{source.program.name}-{target}")
    with replacing_folder(folder, marker=MANIFEST, force=opts.force) as scratch:
        shipped = put_runner(scratch, stack, opts.progress) if opts.standalone else []
        laps.end("load")
        outcome = run(recipe, source.program, ctx, cache=_cache(opts), fingerprint=fingerprint(),
                      dump=opts.dump, note=opts.note, prepared=lambda graph: backend.check(graph, stack))  # fmt: skip
        program = outcome.program
        laps.end("passes")
        artifact = backend.lower(program, stack, scratch)
        if opts.standalone and makes_programs(stack):
            shipped = put_linked_runner(scratch, program, stack)
        samples = list(islice(ctx.proof_data(program), GOLDEN_SAMPLES))
        write_golden(scratch / "golden.npz", samples, backend.witness(scratch, artifact), program.truth.run)
        laps.end("artefact")
        shown = program.named or program
        after = _priced(shown, stack, as_is=True)
        after = after.planned(artifact.memory) if artifact.memory else after
        before = _as_it_came(source, stack, recipe, outcome, opts)
        report = build_report(
            model=model_facts(source.program, source.spec, ctx.data, ctx.validation)
            | {"sizes": list(size_notes(source.program))},
            target=device,
            stack=stack,
            recipe=recipe,
            proofs=outcome.proofs,
            before=_priced(before, stack, as_is=True),
            after=after,
            verdict=judge(after, Limits.of(device)),
            artifact=artifact,
            sizes_bytes=(len(before.onnx_bytes), (scratch / artifact.file).stat().st_size),
            versions=library_versions(stack.machine),
            overall=_overall(source, program, recipe, ctx),
            layers=layer_rows(shown, ctx.proof_data(shown), opts.progress),
        )
        dump_json(scratch / "report.json", report)
        (scratch / "report.html").write_text(render(report), "utf-8")
        write_recipe(scratch, _replay(source, stack, recipe, opts) | _decided(outcome))
        if program.named is not None:
            dump_json(scratch / NAMES, names_of(program.named.model).model_dump())
        dump_json(scratch / BILL, bill_of_materials(scratch, report, shipped))
        write_manifest(scratch, report, program, stack)
        if key is not None:
            sign(scratch, key)
        laps.end("report")
        measured = {"measured_latency_s": pace.latency_s} if isinstance(pace, Measured) else {}
        dump_json(scratch / TIMINGS, laps.seconds | measured)
    return open_bundle(folder)


def estimate_model(model: Any = None, *, target: str, as_is: bool = False, **options: Any) -> Estimate:
    """What one inference of `model` costs on `target`, priced in the stack's own precision unless `as_is`.

    Args:
        options: Those of Options, and the setting of `targets.scaling.scaled`: `mode`, `threads`, `sustained`.
    """
    program, stack = program_on(model, target=target, **options)
    return _priced(program, stack, as_is=as_is)


def program_on(
    model: Any = None, *, target: str, mode: str = "", threads: int | None = None, sustained: bool = False,
    **options: Any,
) -> tuple[Program, Stack]:  # fmt: skip
    """The graph that an estimate reads, and the stack that it is for at the setting that was asked for.

    Raises:
        InvalidInput: the size of an input varies beside its batch, and is not stated.
    """
    opts = Options(**options)
    stack = load_target(target).stack(opts.stack)
    at_setting = scaled(stack, mode=mode, threads=threads, sustained=sustained)
    source = _load(model, opts)
    check_sizes(source.program)
    return float_program(source, stack, opts), at_setting


def _priced(program: Program, stack: Stack, *, as_is: bool) -> Estimate:
    """The estimate under the program's name: a graph's own says little (`main_graph`)."""
    return replace(estimate(program.static_model, stack, as_is=as_is), model=program.name)


def load_model(model: Any = None, **options: Any) -> Source:
    """`model` as it is loaded, with the data that come with it; `options` are those that say how."""
    return _load(model, Options(**options))


def load_program(model: Any = None, **options: Any) -> Program:
    """`model` as it is loaded, before any pass."""
    return load_model(model, **options).program


def export_program(model: Any = None, *, opset: int | None = None, **options: Any) -> Program:
    """`model` as an ONNX program: folded and fused, in float32, in `opset` or that which it has."""
    opts = Options(**options)
    source = _load(model, opts)
    wanted = opset or (source.program.opset if source.program.level is Level.ONNX else LOWEST_OPSET)
    stack = replace(load_target("desktop_cpu").stack("onnxruntime-fp32"), opset=wanted)
    program = float_program(source, stack, opts)
    if program.opset != wanted:
        raise InvalidInput(
            f"this model cannot be written in opset {wanted}; it is in {program.opset}",
            hint="leave --opset out, or ask for a newer one",
        )
    return program


def float_program(source: Source, stack: Stack, opts: Options) -> Program:
    """The graph that an estimate for `stack` reads: exported, folded and fused, in the precision that it has.

    One that sprawls is read as it stands: see `sprawls`.
    """
    if sprawls(source.program):
        return source.program
    recipe = RECIPES["float32"](stack, source.program.level)
    ctx = Context(stack=stack, seed=opts.seed, progress=opts.progress)
    program = run(recipe, source.program, ctx, cache=_cache(opts), fingerprint=fingerprint(), note=opts.note).program
    return _with_branch_shares(program, source, opts)


def _with_branch_shares(program: Program, source: Source, opts: Options) -> Program:
    """The same graph; where it branches and there are samples, with how often they take each branch."""
    if not has_branches(program.graph):
        return program
    given = load_data(opts.data, program.signature, preprocess=opts.preprocess) if opts.data is not None else None
    if (data := given or source.data) is None:
        return program
    model = program.clone()
    note_branch_shares(model, data)
    return program.with_model(model)


def sprawls(program: Program) -> bool:
    """Whether a graph is too long to be folded and fused before every price. Its estimate still groups what the
    runtime computes at once; patterns of many operators (GELU, LayerNorm) are priced one by one."""
    return program.level is Level.ONNX and program.graph.num_nodes() > SPRAWLING_NODES


def _overall(source: Source, program: Program, recipe: Recipe, ctx: Context) -> MetricChange | None:
    """The metric from the source to the end, for a recipe that trains: each training starts the comparison anew."""
    if ctx.metric is None or not trains(recipe):
        return None
    return compare_metric(source.program, program, ctx.proof_data(program), ctx.metric)


def _as_it_came(source: Source, stack: Stack, recipe: Recipe, outcome: Outcome, opts: Options) -> Program:
    """The float model as exported: for a recipe that trains, the one that the training started from."""
    if not trains(recipe):
        return outcome.exported
    exporting = Recipe("as it came", (CleanUpModule(), Export(max(stack.opset, LOWEST_OPSET))))
    ctx = Context(stack=stack, seed=opts.seed)
    return run(exporting, source.program, ctx, cache=_cache(opts), fingerprint=fingerprint()).program


def _load(model: Any, opts: Options) -> Source:
    if isinstance(model, Source):
        return model
    return load_source(model, inputs=opts.inputs, fixed=opts.fixed, sample=first_sample(opts.data), trust=opts.trust)


def _context(source: Source, stack: Stack, opts: Options) -> Context:
    """The user's data, else what came with the model; a metric where there are labels."""
    signature = source.program.signature
    given, validation = (
        load_data(spec, signature, preprocess=opts.preprocess) if spec is not None else None
        for spec in (opts.data, opts.validation)
    )
    check_preprocess_used(opts.preprocess, given, validation)
    data = given or source.data
    if validation is None and opts.data is None:
        validation = source.validation
    judged = validation or data
    return Context(
        stack=stack,
        data=data,
        validation=validation.take(_PROOF_SAMPLES) if validation else _proof_part(data),
        metric=TOP1 if judged is not None and judged.labels is not None else None,
        seed=opts.seed,
        budget=opts.budget,
        progress=opts.progress,
    )


def _fit(recipe: Recipe, source: Source, ctx: Context, opts: Options) -> Fit | None:
    """Trains on the user's data, else on what the zoo trained with; checkpoints lie where finished passes do."""
    data = ctx.data if opts.data is not None else source.training or ctx.data
    folder = cache_folder() if _cache(opts) else None
    return trainer_for(recipe, source.program, ctx, trainer=opts.trainer, data=data, folder=folder)


def _proof_part(data: Dataset | None) -> Dataset | None:
    return data.take(_PROOF_SAMPLES) if data is not None and len(data) > _PROOF_SAMPLES else None


def _recipe(program: Program, stack: Stack, opts: Options) -> Recipe:
    given = frozenset(program.facts)
    if opts.passes is not None:
        return Recipe.from_data(opts.recipe or "custom", opts.passes, given)
    if opts.recipe is None:
        return recipe_for(stack, program.level)
    if opts.recipe not in RECIPES:
        raise UnknownName("recipe", opts.recipe, RECIPES)
    return RECIPES[opts.recipe](stack, program.level)


def _replay(source: Source, stack: Stack, recipe: Recipe, opts: Options) -> dict[str, Any]:
    return recipe_data(
        spec=source.spec,
        stack=stack,
        recipe=recipe,
        seed=opts.seed,
        budget=opts.budget,
        data=opts.data,
        validation=opts.validation,
        preprocess=opts.preprocess,
        trainer=opts.trainer if trains(recipe) and opts.trainer != TRAINER else None,
        inputs=list(opts.inputs),
        fixed=list(opts.fixed),
    )


def _pace(target: Target, stack: Stack, opts: Options) -> Measured | Recorded | None:
    """Who decides what is slower: this machine, what it decided before, or (None) the stack's model."""
    if opts.measure:
        check_host(target, stack)
        return Measured(stack)
    return Recorded(opts.measured) if opts.measured else None


def _decided(outcome: Outcome) -> dict[str, Any]:
    found = decisions(outcome.proofs)
    return {"measured": found} if found else {}


def _cache(opts: Options) -> DiskCache | None:
    return DiskCache() if opts.cache and opts.dump is None else None


class _Laps:
    """How long each step took; written to timings.json and nowhere else."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[f"{step}_s"] = round(now - self._last, 3)
        self._last = now
