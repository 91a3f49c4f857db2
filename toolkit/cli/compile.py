"""toolkit compile"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from targets.errors import UsageError
from toolkit.cli.app import app
from toolkit.cli.from_atlas import choose, load_model_of, parse_accuracy, show_chosen, show_kept
from toolkit.cli.options import (
    ConfigOpt,
    DataOpt,
    FixOpt,
    FromOpt,
    InputOpt,
    JsonOpt,
    MaxEnergyOpt,
    MaxLatencyOpt,
    MaxMemoryOpt,
    MaxSizeOpt,
    MinAccuracyOpt,
    ModelArg,
    ModelOpt,
    PointOpt,
    PreprocessOpt,
    QuietOpt,
    SeedOpt,
    StackOpt,
    StrictOpt,
    TargetOpt,
    TrustOpt,
    VerboseOpt,
    one_model,
    place,
    project,
    samples_of,
    stated_limits,
)
from toolkit.cli.output import EXTRAPOLATED, progress, say, show_json

if TYPE_CHECKING:
    from passes.proof import Proof
    from toolkit.bundle.bundle import Bundle
    from toolkit.config import Config

__all__: list[str] = []


@app.command("compile")
def compile_(
    model: ModelArg = None,
    model_option: ModelOpt = None,
    target: TargetOpt = None,
    stack: StackOpt = None,
    data: DataOpt = None,
    validation: Annotated[str | None, typer.Option(help="Labelled samples for proofs; the forms of --data.")] = None,
    preprocess: PreprocessOpt = None,
    inputs: InputOpt = None,
    fix: FixOpt = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the bundle. [build/MODEL-TARGET]")
    ] = None,
    config: ConfigOpt = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="float32, float16, int8, mixed, qat, compress, weights8 or weights4. [what the stack wants]"),
    ] = None,
    atlas: FromOpt = None,
    point: PointOpt = None,
    max_latency: MaxLatencyOpt = None,
    max_memory: MaxMemoryOpt = None,
    max_energy: MaxEnergyOpt = None,
    max_size: MaxSizeOpt = None,
    min_accuracy: MinAccuracyOpt = None,
    strict: StrictOpt = False,
    trainer: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FACTORY", help="What trains, where the recipe does. [the toolkit's own]"),
    ] = None,
    min_sqnr: Annotated[float | None, typer.Option("--min-sqnr-db", help="Budget for drift. [10 dB]")] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            "--accuracy-drop",
            "--max-metric-drop",
            metavar="SHARE",
            help="What the metric may lose, as 1%; layers stay in float, the most harmful first, until it holds. [1%]",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Keep what this machine measures to be no slower, not what is predicted.")
    ] = False,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Add run/runner, which runs the bundle on the device without Python.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY.pem", help="Sign the manifest with this Ed25519 private key.")
    ] = None,
    seed: SeedOpt = None,
    dump: Annotated[Path | None, typer.Option(help="Folder that gets the graph after each pass.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute every pass again.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an output folder that is not a bundle.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and stop.")] = False,
    trust: TrustOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Make a verified bundle for a target.

    The model is folded, fused, cast or quantized as the target's stack wants it, with a proof after each pass.
    With --from, the recipe is that of the best point which a search found within the limits: its accuracy counts at the
    lower end of its interval, what fits for certain comes before what may fit, and limits that you do not give are the
    target's, as in `toolkit check`.
    Exits with 0 when the bundle was made, whatever its verdict, and with 1 when no point of the atlas fits.
    """
    file = project(config)
    given = one_model(model, model_option)
    limits = stated_limits(max_latency, max_memory, max_energy, max_size) | parse_accuracy(min_accuracy)
    if atlas is None and (limits or point or strict):
        raise UsageError("limits and points choose from an atlas", hint="add --from ATLAS; or see `toolkit check`")
    chosen = None
    if atlas is not None:
        if recipe:
            raise UsageError("--from and --recipe each say how", hint="leave one of them out")
        chosen = choose(atlas, target=target, stack=stack, limits=limits, point=point, strict=strict, usual=file.target)
        if not json:
            show_chosen(chosen)
        if not chosen.fits:
            if json:
                show_json({"schema": "toolkit.choice/1", **chosen.to_json()})
            return 1
        mine = {"model": given, "data": data, "validation": validation, "trainer": trainer}
        file = chosen.config(mine, file, trust=trust)
        target, stack = chosen.point.target, chosen.point.stack
    device, stack_name = place(target, stack, file)
    named = given or file.model
    if dry_run:
        return _dry_run(named, device, stack_name, recipe or file.recipe, None if recipe else file.passes, json)
    from passes.context import Budget
    from toolkit.driver import compile_model
    from toolkit.trainers import TRAINER

    budget = Budget(
        min_sqnr_db=_limit("--min-sqnr-db", min_sqnr, file.budget.min_sqnr_db),
        max_metric_drop=_limit("--accuracy-drop", _share(max_drop), file.budget.max_metric_drop),
    )
    with progress(quiet or json) as report:
        samples = samples_of(file, data=data, preprocess=preprocess, inputs=inputs, fix=fix)
        bundle = compile_model(
            named if chosen is None else load_model_of(chosen.atlas, named, trust=trust, **samples),
            target=device,
            stack=stack_name,
            validation=validation or file.validation,
            output=output or file.output,
            recipe=recipe or file.recipe,
            passes=None if recipe else file.passes,
            trainer=trainer or file.trainer or TRAINER,
            seed=file.seed if seed is None else seed,
            budget=budget,
            measure=measure,
            measured=None if recipe or measure else _measured(file, device, stack_name),
            standalone=standalone,
            sign=sign,
            trust=trust,
            force=force,
            cache=not no_cache,
            dump=dump,
            progress=report,
            note=_log if verbose and not quiet else _ignore,
            **samples,
        )
    if json:
        chose = {"chosen": chosen.to_json()} if chosen else {}
        show_json({"schema": "toolkit.compile/1", "bundle": str(bundle.path), "report": bundle.report, **chose})
        return 0
    _show(bundle)
    if chosen is not None:
        show_kept(chosen, bundle.report)
    return 0


def _share(text: str | None) -> float | None:
    """`1%` or `0.01` as a number.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        found = float(number) / 100 if percent else float(number)
    except ValueError:
        found = nan
    if not 0 <= found < 1:
        raise UsageError(f"--accuracy-drop {text!r} is not a share below one", hint="write it like 1% or 0.01")
    return found


def _limit(flag: str, stated: float | None, otherwise: float) -> float:
    if stated is not None and not isfinite(stated):
        raise UsageError(f"{flag} {stated} bounds nothing", hint=f"give a finite number: {flag} {otherwise:g}")
    return otherwise if stated is None else stated


def _measured(file: Config, device: str, stack: str | None) -> Mapping[str, Sequence[str]] | None:
    """What the file recorded; a latency belongs to a stack, and says nothing of another one."""
    if file.measured and file.target is not None and (device, stack) != (file.target, file.stack):
        raise UsageError(
            f"the recipe was measured for {file.target}/{file.stack}, not for {device}",
            hint="take its field `measured` out: the stack's model then decides; or measure anew with --measure",
        )
    return file.measured


def _ignore(proof: Proof) -> None:
    pass


def _log(proof: Proof) -> None:
    print(f"{proof.decision:9} {proof.name:16} {_drift(proof.to_json())} {proof.reason}".rstrip(), file=sys.stderr)
    for note in proof.notes:
        print(f"{'':9} {note}", file=sys.stderr)


def _dry_run(
    model: str | None,
    target: str,
    stack_name: str | None,
    recipe: str | None,
    passes: list[dict[str, Any]] | None,
    json: bool,
) -> int:
    """Print what would be done, without loading the model."""
    from passes.program import Level
    from passes.recipe import RECIPES, Recipe, recipe_for
    from targets.errors import UnknownName
    from targets.target import load_target

    stack = load_target(target).stack(stack_name)
    level = Level.ONNX if (model or "").endswith(".onnx") else Level.TORCH
    if passes is not None:  # whatever its name: that of a point of an atlas is in no table
        built = Recipe.from_data(recipe or "custom", passes, recipe_for(stack, level).given)
    elif recipe and recipe not in RECIPES:
        raise UnknownName("recipe", recipe, RECIPES)
    else:
        built = RECIPES[recipe](stack, level) if recipe else recipe_for(stack, level)
    if json:
        show_json({"schema": "toolkit.recipe/1", "stack": stack.id, "name": built.name, "passes": built.to_data()})
        return 0
    say(f"recipe {built.name} for {stack.id} ({stack.describe()})")
    for entry in built.to_data():
        settings = ", ".join(f"{k}={v}" for k, v in entry.items() if k != "pass")
        say(f"  {entry['pass']}({settings})")
    return 0


def _show(bundle: Bundle) -> None:
    """The bundle in a dozen lines."""
    from toolkit import units
    from toolkit.cli.output import table

    report = bundle.report
    before, after = report["before"], report["after"]
    say(f"{report['model']['name']} on {report['target']['title']}: {report['stack']['runtime']}")
    say()
    idle = [p["pass"] for p in report["proofs"] if not p["changed"] and p["decision"] == "kept"]
    table(
        ["pass", "", "drift", "metric", "predicted latency (intervals below)"],
        [
            [p["pass"], p["decision"], _drift(p), _metric(p), _cost(p)]
            for p in report["proofs"]
            if p["pass"] not in idle
        ],
    )
    if idle:
        say(f"nothing to do for {', '.join(idle)}")
    for proof in report["proofs"]:
        if proof["reason"]:
            say(f"  {proof['pass']}: {proof['reason']}")
    if samples := max((p["metric"]["samples"] for p in report["proofs"] if p["metric"]), default=0):
        say(f"±: 90 % interval over {samples} paired samples; the drop is below its upper end with 95 % confidence")
    say()
    rows: list[Sequence[str]] = [
        ("size", units.bytes_(before["size_bytes"]), "exact", units.bytes_(after["size_bytes"]), "exact")
    ]
    for label, key, spread in (
        ("latency", "latency_s", "latency_interval_s"),
        ("memory", "memory_bytes", "memory_interval_bytes"),
        ("energy", "energy_j", "energy_interval_j"),
    ):
        cells = [
            text
            for row in (before, after)
            for text in (units.quantity(key, row[key]), units.interval(key, row[spread]))
        ]
        rows.append((label, *cells))
    table(["", "before", "interval", "after", "interval"], rows, right=(1, 3))
    say()
    notes = [report["stack"]["provenance"]]
    if after["extrapolated"]:
        notes.append(EXTRAPOLATED)
    say(f"latency: {'; '.join(notes)}")
    if parts := report["artifact"]["memory"]:
        say(f"memory, planned to the byte: {', '.join(f'{name} {units.bytes_(n)}' for name, n in parts.items())}")
    for note in report["model"]["sizes"]:
        say(note)
    for check in report["verdict"]["checks"]:
        limit = units.quantity(check["quantity"], check["limit"])
        say(f"{check['quantity'].rpartition('_')[0]}: {check['outcome']} (limit {limit})")
    say(f"bundle: {bundle.path}  (report.html to read, `toolkit verify {bundle.path}` to check)")
    if report["artifact"]["checked"]:
        say(report["artifact"]["checked"])
    if report["artifact"]["remaining"]:
        say(f"next: {report['artifact']['remaining']}")


def _drift(proof: dict[str, Any]) -> str:
    if not proof["drift"]:
        return "-"
    where = " (synthetic data)" if proof["data"] == "synthetic" else ""
    values = [d["sqnr_db"] for d in proof["drift"] if not d["identical"]]
    if None in values:
        return "not finite" + where
    return (f"{min(values):.1f} dB SQNR" if values else "identical") + where


def _metric(proof: dict[str, Any]) -> str:
    metric = proof["metric"]
    if not metric:
        return "-"
    low, high = metric["drop_interval"]
    spread = "unknown" if low is None else f"{(high - low) / 2:.4f}"
    return f"{metric['name']} {metric['after']:.4f} (drop {metric['before'] - metric['after']:+.4f} ± {spread})"


def _cost(proof: dict[str, Any]) -> str:
    from toolkit import units

    cost = proof["predicted_latency_s"]
    return f"{units.seconds(cost[0])} -> {units.seconds(cost[1])}" if cost else "-"
