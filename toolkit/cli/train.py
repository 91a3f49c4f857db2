"""toolkit train"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.app import app
from toolkit.cli.options import DataOpt, JsonOpt, PreprocessOpt, QuietOpt, SeedOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json

if TYPE_CHECKING:
    from toolkit.training.recipe import TrainRecipe
    from toolkit.training.session import Outcome

__all__: list[str] = []


@app.command("train")
def train_(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A .yaml file, the folder of a training, or a network of the zoo by its name."
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder. [trained/MODEL]")] = None,
    data: DataOpt = None,
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
    """Train a network of the zoo.

    The folder holds model.safetensors, recipe.yaml and report.json, and is a MODEL for the other commands. A training
    that was cut off goes on when the same command is run again. Several processes: torchrun --nproc-per-node N -m
    toolkit.cli.main train RECIPE.
    """
    from toolkit.training.recipe import load_recipe, parse_recipe

    flags = {"data": data, "validation": validation, "preprocess": preprocess, "epochs": epochs, "rate": rate,
             "batch": batch, "device": device, "seed": seed}  # fmt: skip
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


def _dry_run(recipe: TrainRecipe, json: bool) -> int:
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
    return (f"{metric}loss {best['judged_loss']:.4f} on {judging['samples']:,} samples of {judging['name']}, "
            f"after epoch {best['number']} of {done}")  # fmt: skip
