"""toolkit train"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from targets.errors import UsageError
from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, PreprocessOpt, QuietOpt, SeedOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json

if TYPE_CHECKING:
    from toolkit.training.organism.recipe import OrganismRecipe
    from toolkit.training.organism.session import OrganismOutcome
    from toolkit.training.recipe import TrainRecipe
    from toolkit.training.session import Outcome

__all__: list[str] = []


@app.command("train")
def train_(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A .yaml file, the folder of a training, which goes on there, or a network of the zoo by its name, "
            "as NAME@width=16 with other settings.",
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder. [trained/MODEL]")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled samples to train on: .npz, .npy, a folder of .npy or of images (see --preprocess), "
            "module:factory. [what the network brings]"
        ),
    ] = None,
    validation: Annotated[str | None, typer.Option(help="Labelled samples that judge; the forms of --data.")] = None,
    preprocess: PreprocessOpt = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data at most. [20]")] = None,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate. [0.003]")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples in a batch at most. [64]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [cpu]")] = None,
    seed: SeedOpt = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any field, as methods.recompute=true.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train again, and replace what the folder holds of another training.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and stop.")] = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Train a network of the zoo, or an organism.

    The folder holds model.safetensors, recipe.yaml and report.json, and is a MODEL for the other commands. A training
    that was cut off goes on when the same command is run again. Several processes: torchrun --nproc-per-node N -m
    toolkit.cli.main train RECIPE.
    """
    from toolkit.training.organism.recipe import load_organism_recipe
    from toolkit.training.recipe import load_recipe, parse_recipe

    flags = {"data": data, "validation": validation, "preprocess": preprocess, "epochs": epochs, "rate": rate,
             "batch": batch, "device": device, "seed": seed}  # fmt: skip
    if (organism := load_organism_recipe(recipe, os.environ, settings or ())) is not None:
        return _train_organism(organism, output, flags, force=force, dry_run=dry_run, json=json, quiet=quiet)
    loaded = load_recipe(recipe, os.environ, settings or ())
    said = {name: value for name, value in flags.items() if value is not None}
    made = parse_recipe({**loaded.model_dump(), **said}, "the command line") if said else loaded
    if dry_run:
        return _dry_run(made, json)
    from toolkit.training.distributed import torchrun_group
    from toolkit.training.session import train

    with torchrun_group(made.device) as group, progress(quiet or json or not group.leads) as report:
        outcome = train(made, folder=output, force=force, progress=report, group=group)
    if not group.leads:
        return 0
    if json:
        show_json({"schema": "toolkit.train/1", "folder": str(outcome.folder), "was_finished": outcome.was_finished,
                   "report": outcome.report})  # fmt: skip
        return 0
    _show(outcome)
    return 0


def _train_organism(
    recipe: OrganismRecipe, output: Path | None, flags: Mapping[str, Any], *, force: bool, dry_run: bool, json: bool,
    quiet: bool,
) -> int:  # fmt: skip
    """The same verb for a recipe whose file has a field `organism`: its task brings the data."""
    from toolkit.training.organism.recipe import as_organism_recipe
    from toolkit.yaml_file import Document

    said = {name: value for name, value in flags.items() if value is not None}
    if foreign := sorted(set(said) - set(type(recipe).model_fields)):
        raise UsageError(f"an organism's task brings its data: --{foreign[0]} has no use", hint="leave it out")
    if said:
        recipe = as_organism_recipe(Document("the command line", {**recipe.model_dump(), **said}, {}))
    if dry_run:
        return _dry_run(recipe, json)
    from toolkit.search.component_archive import component_archive
    from toolkit.training.organism.session import train_organism

    with progress(quiet or json) as report:
        outcome = train_organism(recipe, folder=output, force=force, elites=component_archive, progress=report)
    if json:
        show_json({"schema": "toolkit.train.organism/1", "folder": str(outcome.folder),
                   "was_finished": outcome.was_finished, "report": outcome.report})  # fmt: skip
        return 0
    _show_organism(outcome)
    return 0


def _show_organism(outcome: OrganismOutcome) -> None:
    report = outcome.report
    if outcome.was_finished:
        say("finished before: nothing was left to do")
    best, judging = report["best"], report["data"]["judging"]
    events = [event[0] for log in report["events"].values() for event in log if event[2] > 0]
    alive = sum(len(ids) for ids in report["components"].values())
    say(f"{report['recipe']['organism']}: {report['parameters']:,} parameters, {alive} components alive, "
        f"{events.count('birth')} born, {events.count('death')} died")  # fmt: skip
    if best is not None:
        right = f"top-1 {best['metric']:.4f}, " if best["metric"] else ""
        say(f"{right}loss {best['judged_loss']:.4g} on {judging['samples']:,} samples of {judging['name']}, "
            f"after epoch {best['number']}")  # fmt: skip
    for clock, taken_s in sorted(outcome.seconds.items()):
        say(f"lifecycle, {clock}: {taken_s:.1f} s")
    say(f"trained: {outcome.folder}  (a MODEL: `toolkit compile {outcome.folder} --target T`)")


def _dry_run(recipe: TrainRecipe | OrganismRecipe, json: bool) -> int:
    if json:
        show_json({"schema": "toolkit.train.recipe/1", "recipe": recipe.to_data()})
        return 0
    for name, value in recipe.to_data().items():
        say(f"{name}: {value}")
    return 0


def _show(outcome: Outcome) -> None:
    report = outcome.report
    if outcome.was_finished:
        say("finished before: nothing was left to do")
    training, judging = report["data"]["training"], report["data"]["judging"]
    say(f"{report['recipe']['model']}, {report['parameters']:,} parameters, on {training['samples']:,} samples "
        f"of {training['name']}")  # fmt: skip
    if report["best"] is not None:
        say(_best(report, judging))
    say(f"trained: {outcome.folder}  (a MODEL: `toolkit compile {outcome.folder} --target T`)")


def _best(report: Any, judging: Any) -> str:
    best, done = report["best"], len([epoch for epoch in report["epochs"] if epoch["number"] > 0])
    metric = f"{report['metric']} {best['metric']:.4f}, " if report["metric"] else ""
    asked, patience = report["recipe"]["epochs"], report["recipe"]["patience"]
    ended = f"; ended after {done} of {asked}, {patience} without a better one" if done < asked else ""
    return (f"{metric}loss {best['judged_loss']:.4f} on {judging['samples']:,} samples of {judging['name']}, "
            f"after epoch {best['number']} of {asked}{ended}")  # fmt: skip
