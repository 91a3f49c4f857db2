"""toolkit search"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.app import app
from toolkit.cli.options import (
    DataOpt,
    FixOpt,
    InputOpt,
    JsonOpt,
    MaxEnergyOpt,
    MaxLatencyOpt,
    MaxMemoryOpt,
    MaxSizeOpt,
    ModelArg,
    ModelOpt,
    PreprocessOpt,
    QuietOpt,
    SeedOpt,
    StackOpt,
    TrustOpt,
    VerboseOpt,
    one_model,
    place,
    samples_of,
    stated_limits,
)
from toolkit.cli.output import progress, say, show_json, table

if TYPE_CHECKING:
    from toolkit.observability import MetricsCollector
    from toolkit.search.deployment.search_file import SearchConfig
    from toolkit.search.deployment.searching import Found
    from toolkit.search.executors import Executor

__all__: list[str] = []

_EVALUATIONS = 500
_SHOWN = 12
_BYTES = ("peak_memory_bytes", "model_bytes")


@app.command("search")
def search_(
    model: ModelArg = None,
    model_option: ModelOpt = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Device; may be repeated. `toolkit targets` lists them.")
    ] = None,
    stack: StackOpt = None,
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", help="Candidates to evaluate for each target. [500]")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Time for each target; what has begun is finished. [none]")
    ] = None,
    data: DataOpt = None,
    validation: Annotated[
        str | None, typer.Option(help="Labelled samples to judge by, of which half are kept out; the forms of --data.")
    ] = None,
    preprocess: PreprocessOpt = None,
    inputs: InputOpt = None,
    fix: FixOpt = None,
    max_latency: MaxLatencyOpt = None,
    max_memory: MaxMemoryOpt = None,
    max_energy: MaxEnergyOpt = None,
    max_size: MaxSizeOpt = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the atlas. [atlas/MODEL]")] = None,
    executor: Annotated[
        str | None,
        typer.Option("--executor", help="Where candidates are evaluated: here, threads, processes or ray. [here]"),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Candidates at once. [1]")] = None,
    address: Annotated[str | None, typer.Option("--address", help="Of a Ray cluster. [one on this machine]")] = None,
    trial_seconds: Annotated[
        float | None,
        typer.Option(
            "--trial-seconds",
            help="Time for one evaluation, which has failed after it; the first of a worker loads the model. [none]",
        ),
    ] = None,
    fine_tune: Annotated[
        int | None,
        typer.Option(
            "--fine-tune", metavar="EPOCHS", help="Train what may be best after channels were removed. [0: no]"
        ),
    ] = None,
    baselines: Annotated[
        bool | None,
        typer.Option(
            "--baselines/--no-baselines", help="Run stratified random and NSGA-II as well, to compare. [baselines]"
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option("--metrics", metavar="FILE", help="Write there what was counted, and how long it took, as JSON."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A search as .yaml, or a project file; ./toolkit.yaml if it is there."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any field, as executor.workers=4.")
    ] = None,
    seed: SeedOpt = None,
    trust: TrustOpt = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be searched and stop.")] = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """The best deployments of a model for every budget: an atlas to choose from.

    A deployment is a stack, what is taken out of the network, and the bits of each layer. Candidates are priced by the
    target's cost model and judged on samples: a few first, all where they may be the best of their kind. What is found
    is measured anew on samples that the search never saw. The same command goes on where a search was broken off, and
    with more --evaluations further. `toolkit compile --from ATLAS --max-latency 20ms` makes the best that fits.
    """
    from toolkit.search.deployment.search_file import load_search

    file = load_search(config, os.environ, settings or ())
    targets, stack_name = _targets(target or [], stack, file)
    limits = _limits(max_latency, max_memory, max_energy, max_size)
    flags = {"model": one_model(model, model_option), "evaluations": evaluations, "seconds": seconds,
             "validation": validation, "fine_tune": fine_tune, "baselines": baselines, "seed": seed}  # fmt: skip
    where = {"kind": executor, "workers": workers, "address": address, "trial_s": trial_seconds}
    samples = samples_of(file, data=data, preprocess=preprocess, inputs=inputs, fix=fix)
    file = file.model_copy(update={
        **_said(flags), "target": targets, "stack": stack_name, "limits": file.limits.model_copy(update=limits),
        "executor": file.executor.model_copy(update=_said(where)), "data": samples["data"],
        "preprocess": samples["preprocess"], "input": list(samples["inputs"]), "fix": list(samples["fixed"]),
    })  # fmt: skip
    if file.evaluations is None and file.seconds is None:
        file = file.model_copy(update={"evaluations": _EVALUATIONS})
    if dry_run:
        return _dry_run(file, json)
    return _search(file, output, metrics, trust=trust, json=json, quiet=quiet)


def _search(
    file: SearchConfig, output: Path | None, metrics: Path | None, *, trust: bool, json: bool, quiet: bool
) -> int:
    from toolkit.search.deployment.problem import Problem
    from toolkit.search.deployment.searching import Wanted, search_deployments
    from toolkit.sources import EXAMPLE

    problem = Problem(
        model=file.model, data=file.data, validation=file.validation, preprocess=file.preprocess,
        inputs=tuple(file.input), fixed=tuple(file.fix), seed=file.seed, trust=trust,
    )  # fmt: skip
    wanted = Wanted(targets=tuple(file.target), stack=file.stack, evaluations=file.evaluations, seconds=file.seconds,
                    limits=file.limits.stated(), seed=file.seed, epochs=file.fine_tune,
                    baselines=file.baselines)  # fmt: skip
    named = output or (Path(file.output) if file.output else None)
    folder = named or Path("atlas") / Path((file.model or EXAMPLE).replace(":", "-")).stem
    pool = _pool(file)
    try:
        with _counted(metrics) as collector, progress(quiet or json) as report:
            found = search_deployments(problem, wanted, folder, executor=pool, metrics=collector, progress=report)
    finally:
        pool.close()
    if json:
        from toolkit.search.deployment.atlas_file import read_atlas

        show_json({"schema": "toolkit.search/1", "folder": str(folder), **read_atlas(folder)})
        return 0
    for one in found:
        _show(one)
    say(f"atlas: {folder}  (`toolkit report {folder}` to look at it, `toolkit compile --from {folder}` for the best)")
    return 0


@contextmanager
def _counted(path: Path | None) -> Iterator[MetricsCollector | None]:
    """A collector that is written to `path`, however the search ends; none where nobody asks for one."""
    if path is None:
        yield None
        return
    from toolkit.observability import MetricsCollector
    from toolkit.search.atlas.page import replace_text

    replace_text(path, "")  # where nothing can be written, that is said before hours of search
    collector = MetricsCollector()
    try:
        yield collector
    finally:
        replace_text(path, collector.snapshot().to_json() + "\n")


def _targets(flags: list[str], stack: str | None, file: SearchConfig) -> tuple[list[str], str | None]:
    """Devices from flags, then from the file; a stack written target/stack names both."""
    from toolkit.config import Config

    usual = Config(target=file.target[0] if file.target else None, stack=file.stack)
    first, stack_name = place(flags[0] if flags else None, stack, usual)
    return flags or ([first] if "/" in (stack or "") else file.target), stack_name


def _limits(latency: str | None, memory: str | None, energy: str | None, size: str | None) -> dict[str, float]:
    """What the flags say, by measure."""
    said = stated_limits(latency, memory, energy, size)
    if not said:
        return {}
    from toolkit.search.deployment.prices import LIMITED

    return {LIMITED[name]: value for name, value in said.items()}


def _said(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _pool(file: SearchConfig) -> Executor:
    from toolkit.search.executors import executor

    where = file.executor
    return executor(where.name, workers=where.workers, limit_s=where.trial_s, address=where.address)


def _dry_run(file: SearchConfig, json: bool) -> int:
    if json:
        show_json({"schema": "toolkit.search.config/1", "search": file.to_data()})
        return 0
    for name, value in file.to_data().items():
        if value not in ([], {}):
            say(f"{name}: {value}")
    return 0


def _show(found: Found) -> None:
    """One target: its front, and how good the search was."""
    from toolkit import units
    from toolkit.search.deployment.prices import LIMITED

    say(f"{found.target}: {found.finished} deployments of {_count(found.ground.space.size())} tried, "
        f"{found.evaluated} evaluations made, {found.hits} known before, {found.failures} failed")  # fmt: skip
    say(f"stacks: {', '.join(stack.name for stack in found.ground.stacks)}")
    say()
    front = [point for point in found.points if point.is_on_front]
    if not front:
        say("nothing that was tried keeps the limits; what came nearest is in the atlas")
    rows = []
    for point in _thinned(sorted(front, key=lambda p: p.measures["latency_s"])):
        cells = [f"{units.quantity(kind, point.measures[name])} {units.interval(kind, point.intervals[name])}"
                 for kind, name in LIMITED.items()]  # fmt: skip
        held = point.held_out or {}
        rows.append([point.id[:8], point.stack, *cells, _share(held, "quality"), f"{held['less_than_searched']:+.4f}"])
    table(["point", "stack", "latency", "memory", "energy", "size", "quality, samples kept out", "less than searched"],
          rows)  # fmt: skip
    if len(front) > len(rows):
        say(f"{len(front) - len(rows)} more points of the front are in the atlas")
    say("intervals: 80 % of the cost model, 90 % of quality over samples")
    evaluator = found.ground.evaluator
    if floor := evaluator.judge.floor(evaluator.workshop.problem.parts.searched):
        say(f"no front has what is no better than one constant answer: {floor:.4f}")
    say()
    _show_standing(found)


def _show_standing(found: Found) -> None:
    rows = [
        [name, f"{s.coverage:.1%}", f"{s.qd_score:.4g}", "-" if s.hypervolume is None else f"{s.hypervolume:.4f}"]
        for name, s in found.standing.items()
    ]
    headings = [f"{found.finished} evaluations each", f"of {len(found.archive.cells)} cells", "QD score", "hypervolume"]
    table(headings, rows, right=(1, 2, 3))
    if found.emitters:
        say("stayed in the archive, of what each proposed: "
            + ", ".join(f"{name} {share:.0%} of {n}" for name, (n, share) in found.emitters.items()))  # fmt: skip
    error = found.table_error
    say(f"cells over {', '.join(found.archive.space.names)}")
    say(f"{found.ground.priced_per_minute:,.0f} candidates a minute are drawn and priced from tables,")
    time_, space = (max(error[name] for name in pair) for pair in (("latency_s", "energy_j"), _BYTES))
    say(f"which are within {time_:.1%} of the cost model's time and energy, and {space:.1%} of its memory and size")
    say()


def _share(held: Mapping[str, Any], name: str) -> str:
    low, high = held[f"{name}_interval"]
    return f"{held[name]:.4f} [{low:.4f}, {high:.4f}]"


def _count(size: float) -> str:
    return f"{size:,}" if size < 10**9 else f"{size:.1e}"


def _thinned(points: Sequence[Any]) -> list[Any]:
    """At most so many, evenly, the ends among them."""
    if len(points) <= _SHOWN:
        return list(points)
    return [points[round(k * (len(points) - 1) / (_SHOWN - 1))] for k in range(_SHOWN)]
