"""A recipe carried out: from names to a network, data and a trainer, and from there to a folder that compiles."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import Dataset
from passes.metric import TOP1
from passes.torch_level.capture import signature_of
from passes.torch_level.objectives import Aim, Objective
from targets.errors import InvalidInput
from toolkit.data import check_preprocess_used, load_data
from toolkit.models.registry import Entry, entry
from toolkit.models.trained_folder import CHECKPOINT, RECIPE, REPORT, WEIGHTS, is_trained, open_trained, sha256
from toolkit.training.batches import held_out
from toolkit.training.distributed import ALONE, Group
from toolkit.training.methods import curriculum_for, optimizer_of, started_from, teacher_of, thaw_of
from toolkit.training.observing import Watchers
from toolkit.training.recipe import TrainRecipe, config_of
from toolkit.training.settings import Settings
from toolkit.training.starting import untrained
from toolkit.training.trainer import Trainer
from toolkit.training.watching import Epoch, Unwatched, Watcher
from toolkit.version import __version__
from toolkit.yaml_file import read_yaml, write_yaml

if TYPE_CHECKING:
    from toolkit.models.blueprints.config import BlueprintConfig

__all__ = ["Outcome", "output_folder", "train"]

_SCHEMA, _STEP = "toolkit.train/1", "training"
_LEFT = re.compile(r"\.(\d+\.new|(model\.safetensors|recipe\.yaml|report\.json)\.\d+)")
"""Half-written files that a kill leaves behind."""


@dataclass(frozen=True)
class Outcome:
    """What a training came to: its folder and its report; `was_finished` where nothing was left to do."""

    folder: Path
    report: Mapping[str, Any]
    was_finished: bool = False


@dataclass(frozen=True)
class _Data:
    """What is learned from, what judges, and whether the user named it."""

    training: Dataset
    judging: Dataset | None
    given: bool


def output_folder(recipe: TrainRecipe) -> Path:
    """Where a training goes: the recipe's `output`, else `trained/<model>`."""
    return Path(recipe.output) if recipe.output else Path("trained") / recipe.model


def train(
    recipe: TrainRecipe,
    *,
    folder: Path | None = None,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda step, done: None,
    group: Group = ALONE,
    watcher: Watcher | None = None,
) -> Outcome:
    """Train as `recipe` says, into `folder`. What was cut off goes on; what is finished is not done again.

    Args:
        force: Train again where it is finished, and replace what the folder holds of another training. The old files
            stay until the new ones are there.
        group: Processes that train together; the first of them writes.
        watcher: Is told of every step and epoch, such as `observing.Observer`.

    Raises:
        InvalidInput: the network, the data or the folder do not allow it.
    """
    folder = folder or output_folder(recipe)
    found = entry(recipe.model)
    config = config_of(recipe)
    resolved = _resolved(recipe, config)
    _check_folder(folder, force)
    if not force and (folder / REPORT).is_file():
        return Outcome(folder, _finished(resolved, folder), was_finished=True)
    progress("loading the data", 0.0)
    model = untrained(found, config, recipe.seed)
    data = _data(recipe, found, config, model)
    model = started_from(recipe.methods, model)
    told = _History()
    trainer = curriculum_for(recipe, _trainer(recipe, tuple(found.example(config)), data, progress), model)
    watched = told if watcher is None else Watchers(told, watcher)
    trainer = replace(trainer, group=group, watcher=watched, checkpoint=folder / CHECKPOINT, anew=force)
    trained = trainer(model, _loss(recipe, found, data), step=_STEP, epochs=recipe.epochs, rate=recipe.rate)
    report = _report(resolved, trained, data, told.epochs)
    if group.leads:
        report = _write(folder, resolved, trained, report)
    return Outcome(folder, report)


class _History(Unwatched):
    """Keeps what the trainer tells at the end."""

    epochs: tuple[Epoch, ...] = ()

    def finished(self, history: Any) -> None:
        """See `Watcher`."""
        self.epochs = tuple(history)


# ---- from names to objects


def _resolved(recipe: TrainRecipe, config: BlueprintConfig | None) -> dict[str, Any]:
    """The recipe as it is written: with every field of the config, so that other defaults change nothing later."""
    fields = {} if config is None else config.model_dump(mode="json")
    if fields.get("seed") == recipe.seed:
        del fields["seed"]
    return {**recipe.to_data(), "config": fields}


def _data(recipe: TrainRecipe, found: Entry, config: BlueprintConfig | None, model: nn.Module) -> _Data:
    signature = signature_of(model, found.example(config), {})
    if recipe.data is not None:
        training, judging = load_data(recipe.data, signature, preprocess=recipe.preprocess), None
    else:
        training, judging = _of_the_zoo(found, config)
    if recipe.validation is not None:
        judging = load_data(recipe.validation, signature, preprocess=recipe.preprocess)
    check_preprocess_used(recipe.preprocess, *([training] if recipe.data else []), judging)
    _check_labels(training, recipe)
    if judging is None:
        training, judging = held_out(training, recipe.held_out, recipe.seed)
        if judging is None and recipe.held_out:
            judging = training  # too few to keep any apart
    return _Data(training, judging, given=recipe.data is not None)


def _of_the_zoo(found: Entry, config: BlueprintConfig | None) -> tuple[Dataset, Dataset | None]:
    training = found.training(config)
    if training is None:
        raise InvalidInput(f"{found.name} comes without labelled data", hint="name data of your own: --data")
    return training, found.validation(config)


def _check_labels(data: Dataset, recipe: TrainRecipe) -> None:
    if not len(data):
        raise InvalidInput(f"{data.name} has no samples to train on", hint="give data with --data")
    if data.labels is None:
        if recipe.methods.distil is None:
            raise InvalidInput(
                f"{data.name} has no labels to train with",
                hint="give labels with the data, or a teacher: methods: {distil: {teacher: FOLDER}}",
            )
        return
    classes = np.unique(np.asarray(data.labels))
    if len(classes) == 1:
        what = f"all {len(data)} samples of {data.name} are" if len(data) > 1 else f"the one sample of {data.name} is"
        raise InvalidInput(
            f"{what} of class {classes[0]}: there is nothing to tell apart",
            hint="give samples of two classes at least",
        )


def _loss(recipe: TrainRecipe, found: Entry, data: _Data) -> Callable[[nn.Module, Batch], Tensor]:
    """The network's own loss where its module has one, else the cross entropy of its first output."""
    if recipe.methods.distil is not None:
        aim: Aim = "both" if data.training.labels is not None else "reference"
        return Objective(aim, teacher_of(recipe.methods.distil), recipe.methods.distil.temperature)
    own: Callable[[nn.Module, Batch], Tensor] | None = getattr(import_module(found.module), "loss", None)
    return own or Objective("labels", nn.Identity())


def _trainer(
    recipe: TrainRecipe, inputs: tuple[str, ...], data: _Data, progress: Callable[[str, float], None]
) -> Trainer:
    return Trainer(
        data=data.training,
        validation=data.judging,
        metric=TOP1 if data.judging is not None and data.judging.labels is not None else None,
        inputs=inputs,
        settings=Settings(
            batch=recipe.batch,
            weight_decay=recipe.weight_decay,
            warm_up=recipe.warm_up,
            patience=recipe.patience,
            amp=recipe.amp,
            held_out=0.0,
            device=recipe.device,
            threads=recipe.threads,
            recompute=recipe.methods.recompute,
        ),
        seed=recipe.seed,
        progress=progress,
        optimizer=optimizer_of(recipe.methods),
        thaw=thaw_of(recipe.methods),
    )


# ---- the folder


def _check_folder(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder} is a file", hint="choose another --output")
    foreign = folder.is_dir() and any(not _LEFT.fullmatch(path.name) for path in folder.iterdir())
    if foreign and not is_trained(folder) and not force:
        raise InvalidInput(
            f"{folder} exists and holds no training", hint="choose another --output, or write into it with --force"
        )


def _finished(resolved: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The report of a training that is done.

    Raises:
        InvalidInput: it was one of another recipe, or its files are damaged.
    """
    report = open_trained(folder).report
    before, now = _dotted(read_yaml(folder / RECIPE).data), _dotted(resolved)
    if different := sorted(k for k in {*before, *now} if before.get(k) != now.get(k)):
        changes = "; ".join(f"{k} is {now.get(k, 'not set')}, was {before.get(k, 'not set')}" for k in different)
        raise InvalidInput(
            f"{folder} holds a training of another recipe: {changes}",
            hint="choose another --output, or replace it with --force",
        )
    return report


def _dotted(fields: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Fields within fields by their whole names, as --set takes them."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        inner = _dotted(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
        found.update(inner)
    return found


def _report(resolved: Mapping[str, Any], model: nn.Module, data: _Data, history: tuple[Epoch, ...]) -> dict[str, Any]:
    judged = [epoch for epoch in history if epoch.judged_loss is not None]
    best = max(judged, key=lambda epoch: (epoch.metric, -(epoch.judged_loss or 0.0), -epoch.number), default=None)
    return {
        "schema": _SCHEMA,
        "recipe": resolved,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": {"given": data.given, "training": _facts(data.training),
                 "judging": None if data.judging is None else _facts(data.judging)},
        "metric": TOP1.name if data.judging is not None and data.judging.labels is not None else None,
        "best": None if best is None else asdict(best),
        "epochs": [asdict(epoch) for epoch in history],
        "versions": {"toolkit": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
    }  # fmt: skip


def _facts(data: Dataset) -> dict[str, Any]:
    return {"name": data.name, "samples": len(data), "sha256": data.digest}


def _write(folder: Path, resolved: Mapping[str, Any], model: nn.Module, report: Mapping[str, Any]) -> dict[str, Any]:
    """Each file whole or not at all, and the report, which holds the hashes of the others, last.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    from safetensors.torch import save

    weights = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _put(folder / WEIGHTS, save(weights, {"made_by": _SCHEMA}))
        _put(folder / RECIPE, write_yaml(dict(resolved)).encode())
        whole = {**report, "files": {name: sha256(folder / name) for name in (RECIPE, WEIGHTS)}}
        _put(folder / REPORT, json.dumps(whole, indent=1, ensure_ascii=False).encode())
        (folder / CHECKPOINT).unlink(missing_ok=True)
        for path in folder.iterdir():
            if _LEFT.fullmatch(path.name):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"cannot write {folder}: {error.strerror}",
            hint="free some space, or make it writable, and run the same command again: the training is kept",
        ) from error
    return whole


def _put(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
