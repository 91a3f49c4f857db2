"""A recipe carried out: from a task to an organism that was trained, and from there to a folder that compiles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from passes.dataset import Array, Dataset
from passes.metric import TOP1
from targets.errors import InvalidInput
from toolkit.models.trained_folder import is_organism
from toolkit.organism.folder import read_folder
from toolkit.organism.native import SlimeModel
from toolkit.training.batches import Batches
from toolkit.training.observing import Watchers
from toolkit.training.organism.archiving import Elites
from toolkit.training.organism.keeping import Keeper
from toolkit.training.organism.lifecycle import Phases
from toolkit.training.organism.optimizing import pool_adamw
from toolkit.training.organism.probing import Probe
from toolkit.training.organism.recipe import LifecycleFields, OrganismRecipe
from toolkit.training.organism.rules import LifecycleRules
from toolkit.training.organism.tasks import Task, config_of, task
from toolkit.training.organism.timescales import Timescales
from toolkit.training.settings import Settings
from toolkit.training.trainer import Trainer
from toolkit.training.watching import Epoch, Unwatched, Watcher
from toolkit.version import __version__
from toolkit.yaml_file import read_yaml, write_yaml

__all__ = ["MakeElites", "OrganismOutcome", "output_folder", "train_organism"]

_SCHEMA, _RECIPE, _REPORT = "toolkit.train.organism/1", "recipe.yaml", "report.json"
_ANEW = "train it again with --force"
_PROBED, _EXAMPLES = 64, 64


class MakeElites(Protocol):
    """Makes the archive of one layer."""

    def __call__(self, seed: int, layer: str, *, cells: int) -> Elites: ...


@dataclass(frozen=True)
class OrganismOutcome:
    """What a training came to; `seconds` that each clock of the lifecycle took, in this process."""

    folder: Path
    report: Mapping[str, Any]
    was_finished: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)


def output_folder(recipe: OrganismRecipe) -> Path:
    """Where a training goes: the recipe's `output`, else `trained/organism-<task>`."""
    return Path(recipe.output) if recipe.output else Path("trained") / f"organism-{recipe.organism}"


def train_organism(
    recipe: OrganismRecipe,
    *,
    folder: Path | None = None,
    force: bool = False,
    elites: MakeElites | None = None,
    progress: Callable[[str, float], None] = lambda step, done: None,
    watcher: Watcher | None = None,
) -> OrganismOutcome:
    """Train as `recipe` says, into `folder`. What was cut off goes on; what is finished is not done again.

    The folder is a MODEL for the other commands; until it is there, FOLDER.checkpoint.pt lies beside it.

    Args:
        elites: Makes archives; None trains without, and births from the archive are then fresh.
        watcher: Is told of every step and epoch, such as `toolkit.training.observing.Observer`.

    Raises:
        InvalidInput: the recipe or the folder do not allow it.
    """
    folder = folder or output_folder(recipe)
    if not force and (folder / _REPORT).is_file():
        return OrganismOutcome(folder, _finished(recipe, folder), was_finished=True)
    _check_free(folder)
    learnt = task(recipe.organism, recipe.seed)
    model = SlimeModel(config_of(learnt, seed=recipe.seed, **recipe.sizes.model_dump()))
    keeper, told = keeper_for(recipe, learnt, elites), _History()
    checkpoint = folder.with_name(f"{folder.name}.checkpoint.pt")
    trainer = Trainer(
        data=learnt.learnt, validation=learnt.judged, metric=TOP1 if learnt.asked == "last" else None,
        settings=Settings(batch=recipe.batch, weight_decay=recipe.weight_decay, warm_up=recipe.warm_up,
                          patience=recipe.patience, device=recipe.device, threads=recipe.threads,
                          longest_s=recipe.longest_s),
        seed=recipe.seed, progress=progress, checkpoint=checkpoint, anew=force, optimizer=pool_adamw, tender=keeper,
        watcher=told if watcher is None else Watchers(told, watcher),
    )  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    trained = trainer(model, learnt.loss, step="training", epochs=recipe.epochs, rate=recipe.rate)
    assert isinstance(trained, SlimeModel)
    report = _report(recipe, learnt, trained, told.epochs, keeper)
    _write(folder, recipe, learnt, trained, report, keeper, force)
    checkpoint.unlink(missing_ok=True)
    return OrganismOutcome(folder, report, seconds={} if keeper.kept is None else dict(keeper.kept.seconds))


def keeper_for(recipe: OrganismRecipe, learnt: Task, elites: MakeElites | None) -> Keeper:
    """Who cares for the components of a training by `recipe`.

    A part of what judges is the probe: it is never learnt from, and births and deaths are decided by it, so figures of
    merit want samples of their own.
    """
    steps = recipe.epochs * -(-len(learnt.learnt) // recipe.batch)
    probe = next(Batches(data=learnt.judged, size=min(_PROBED, len(learnt.judged)), seed=0).in_order())
    lives = recipe.lifecycle
    return Keeper(
        rules=rules_for(lives, steps), probe=Probe([probe], learnt.loss), digest=learnt.judged.digest,
        length=learnt.length, causal=learnt.causal, seed=recipe.seed,
        elites=None if elites is None else partial(_elites_of, elites, recipe.seed, lives.cells),
    )  # fmt: skip


def _elites_of(make: MakeElites, seed: int, cells: int, layer: str) -> Elites:
    return make(seed, layer, cells=cells)


def rules_for(lives: LifecycleFields, steps: int) -> LifecycleRules:
    """The rules that a recipe's fields stand for in a training of `steps`."""
    given: dict[str, Any] = {
        "births": lives.births, "deaths": lives.deaths, "sigma": lives.sigma, "stack": lives.stack,
        "price": lives.price_nats_per_s, "wanted_latency_s": lives.wanted_latency_s,
        "phases": Phases(warm_up=lives.warm_up, gentle=lives.gentle),
        "fade_steps": lives.fade_steps, "cooldown": lives.cooldown_steps,
        "clocks": None if lives.medium_steps is None else Timescales(1, lives.medium_steps, 2 * lives.medium_steps),
    }  # fmt: skip
    return LifecycleRules.for_steps(steps, **{name: value for name, value in given.items() if value is not None})


class _History(Unwatched):
    """Keeps what the trainer tells at the end."""

    epochs: tuple[Epoch, ...] = ()

    def finished(self, history: Any) -> None:
        """See `Watcher`."""
        self.epochs = tuple(history)


# ---- the folder


def _check_free(folder: Path) -> None:
    """Refuse a folder of something else before any time is spent."""
    is_empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_empty and not is_organism(folder):
        raise InvalidInput(f"{folder} is there already, and is no organism's", hint="choose another --output")


def _finished(recipe: OrganismRecipe, folder: Path) -> Mapping[str, Any]:
    """The report of a training that is done.

    Raises:
        InvalidInput: it was one of another recipe, or its files are damaged.
    """
    read_folder(folder)
    before, now = read_yaml(folder / _RECIPE).data, recipe.to_data()
    if not isinstance(before, dict):
        raise InvalidInput(f"{folder / _RECIPE} is not a mapping of fields", hint=_ANEW)
    if different := sorted(k for k in {*before, *now} if before.get(k) != now.get(k)):
        changes = ", ".join(f"{k} is {now.get(k)!r}, was {before.get(k)!r}" for k in different)
        raise InvalidInput(
            f"{folder} holds a training of another recipe: {changes}",
            hint="choose another --output, or replace it with --force",
        )
    try:
        found: Mapping[str, Any] = json.loads((folder / _REPORT).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder / _REPORT} is damaged", hint=_ANEW) from error
    if not isinstance(found, dict) or found.get("schema") != _SCHEMA:
        raise InvalidInput(f"{folder / _REPORT} is damaged, or of another version", hint=_ANEW)
    return found


def _report(
    recipe: OrganismRecipe, learnt: Task, trained: SlimeModel, epochs: tuple[Epoch, ...], keeper: Keeper
) -> dict[str, Any]:
    judged = [epoch for epoch in epochs if epoch.judged_loss is not None]
    best = max(judged, key=lambda epoch: (epoch.metric, -(epoch.judged_loss or 0.0), -epoch.number), default=None)
    kept = keeper.kept
    return {
        "schema": _SCHEMA, "recipe": recipe.to_data(), "parameters": sum(p.numel() for p in trained.parameters()),
        "data": {name: {"name": data.name, "samples": len(data), "sha256": data.digest}
                 for name, data in (("training", learnt.learnt), ("judging", learnt.judged))},
        "best": None if best is None else asdict(best), "epochs": [asdict(epoch) for epoch in epochs],
        "components": {name: list(organism.pool.ids) for name, organism in trained.organisms.items()},
        "events": {name: [list(event) for event in organism.pool.log] for name, organism in trained.organisms.items()},
        "lifecycle": [] if kept is None else kept.history, "gate_closings": 0 if kept is None else kept.gate.closings,
        "versions": {"toolkit": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
    }  # fmt: skip


def _write(
    folder: Path, recipe: OrganismRecipe, learnt: Task, trained: SlimeModel, report: Mapping[str, Any], keeper: Keeper,
    force: bool,
) -> None:  # fmt: skip
    """The model and its archive whole or not at all, the report last: without it the training is not finished."""
    kept = keeper.kept
    archives = {} if kept is None else kept.elites

    def write_archive(place: Path) -> None:
        for layer, elites in sorted(archives.items()):
            elites.save(place / layer.replace(".", "-"))

    half_done = folder.is_dir() and not (folder / _REPORT).is_file()
    trained.save(folder, examples=_examples(learnt), force=force or half_done,
                 write_archive=write_archive if archives else None)  # fmt: skip
    _put(folder / _RECIPE, write_yaml(recipe.to_data()))
    _put(folder / _REPORT, json.dumps(report, indent=1) + "\n")


def _put(path: Path, content: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(content, "utf-8")
    os.replace(scratch, path)


def _examples(learnt: Task) -> dict[str, Array]:
    data: Dataset = learnt.judged
    count = min(_EXAMPLES, len(data))
    x = np.concatenate([sample["x"] for sample, _ in zip(data, range(count), strict=False)])
    return {"x": x} if data.labels is None else {"x": x, "labels": np.asarray(data.labels)[:count]}
