"""toolkit search"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.app import app
from toolkit.cli.options import (
    ConfigOpt,
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
    project,
    stated_limits,
)
from toolkit.cli.output import progress, say, show_json, table

if TYPE_CHECKING:
    from toolkit.search.deployment.searching import Found

__all__: list[str] = []

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
        str, typer.Option("--executor", help="Where candidates are evaluated: here, threads, processes or ray.")
    ] = "",
    workers: Annotated[int, typer.Option("--workers", help="Candidates at once.")] = 1,
    address: Annotated[str | None, typer.Option("--address", help="Of a Ray cluster. [one on this machine]")] = None,
    fine_tune: Annotated[
        int, typer.Option("--fine-tune", metavar="EPOCHS", help="Train what may be best after channels were removed.")
    ] = 0,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Run stratified random and NSGA-II as well, to compare.")
    ] = True,
    config: ConfigOpt = None,
    seed: SeedOpt = None,
    trust: TrustOpt = False,
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
    from toolkit.search.deployment.prices import LIMITED

    file = project(config)
    limits = {
        LIMITED[name]: value for name, value in stated_limits(max_latency, max_memory, max_energy, max_size).items()
    }
    first, stack_name = place(target[0] if target else None, stack, file)
    name = one_model(model, model_option) or file.model
    evaluations = 500 if evaluations is None and seconds is None else evaluations
    from toolkit.search.deployment.problem import Problem
    from toolkit.search.deployment.searching import Wanted, search_deployments
    from toolkit.search.executors import executor as executor_named
    from toolkit.sources import EXAMPLE

    problem = Problem(
        model=name, data=data or file.data, validation=validation or file.validation,
        preprocess=file.preprocess if preprocess is None else preprocess, inputs=tuple(inputs or file.input),
        fixed=tuple(fix or file.fix), seed=file.seed if seed is None else seed, trust=trust,
    )  # fmt: skip
    wanted = Wanted(targets=tuple(target or [first]), stack=stack_name, evaluations=evaluations, seconds=seconds,
                    limits=limits, seed=problem.seed, epochs=fine_tune, baselines=baselines)  # fmt: skip
    folder = output or Path("atlas") / Path((name or EXAMPLE).replace(":", "-")).stem
    pool = executor_named(executor or ("processes" if workers > 1 else "here"), workers=workers, address=address)
    try:
        with progress(quiet or json) as report:
            found = search_deployments(problem, wanted, folder, executor=pool, progress=report)
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
    say()
    _show_standing(found)


def _show_standing(found: Found) -> None:
    rows = [
        [name, f"{s.coverage:.1%}", f"{s.qd_score:.4g}", "-" if s.hypervolume is None else f"{s.hypervolume:.4f}"]
        for name, s in found.standing.items()
    ]
    headings = [f"{found.finished} evaluations each", f"of {len(found.archive.cells)} cells", "QD score", "hypervolume"]
    table(headings, rows, right=(1, 2, 3))
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
