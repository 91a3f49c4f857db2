"""A training as a file: what network, on which data, for how long, and with which methods."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from targets.errors import InvalidInput, ToolkitError
from toolkit.fields import checked, refusal
from toolkit.models.blueprints.config import BlueprintConfig, ConfigRefused, parse
from toolkit.models.registry import configured, entry, names
from toolkit.models.trained_folder import RECIPE
from toolkit.overrides import layered
from toolkit.yaml_file import Document, read_yaml

__all__ = [
    "CurriculumMethod", "DistilMethod", "Methods", "SymplecticMethod", "TrainRecipe", "TransferMethod", "config_of",
    "in_its_folder", "load_recipe", "parse_recipe",
]  # fmt: skip

_Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class CurriculumMethod(_Strict):
    """Easy samples first: see `toolkit.training.curriculum`."""

    epochs: Annotated[int, Field(ge=1)] = 5
    """Until every sample may be drawn."""
    start: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the samples, the easiest ones, that the first batches are drawn from."""


class TransferMethod(_Strict):
    """Start from a trained network, and let its layers learn one after the other: see `toolkit.training.transfer`."""

    start_from: str
    """A folder that `toolkit train` made, or a network of the zoo that has shipped weights."""
    thaw_every: Annotated[int, Field(ge=0)] = 1
    """Epochs until the next group of layers, counted from the outputs, learns as well; 0 lets all learn at once."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The rate of a group over that of the one behind it."""


class DistilMethod(_Strict):
    """Learn from the answers of a trained network as well as from the labels: see `passes.torch_level.objectives`."""

    teacher: str
    """A folder that `toolkit train` made, or a network of the zoo that has shipped weights."""
    temperature: Annotated[float, Field(gt=0)] = 2.0


class SymplecticMethod(_Strict):
    """Leapfrog with friction in place of AdamW: see `toolkit.training.symplectic`. It wants rates of about 0.1."""

    friction: Annotated[float, Field(ge=0)] = 1.0


class Methods(_Strict):
    """What is added to the plain training. All are off by default: see `python -m toolkit.bench.training_cost`."""

    curriculum: CurriculumMethod | None = None
    transfer: TransferMethod | None = None
    distil: DistilMethod | None = None
    symplectic: SymplecticMethod | None = None
    recompute: bool = False
    """Compute inner values again for the gradient instead of holding them: see `toolkit.training.recomputing`."""


class TrainRecipe(_Strict):
    """Every field but `model` may be left out; a flag beats the file."""

    model: str
    config: dict[str, Any] = Field(default_factory=dict)
    data: str | None = None
    validation: str | None = None
    preprocess: str | None = None
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    rate: Annotated[float, Field(gt=0, le=100)] = 3e-3
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 1e-2
    warm_up: _Share = 0.05
    patience: Annotated[int, Field(ge=0)] = 10
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Literal["cpu", "cuda"] = "cpu"
    amp: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    methods: Methods = Field(default_factory=Methods)
    output: str | None = None

    def to_data(self) -> dict[str, Any]:
        """As recipe.yaml holds it; where it went is left out."""
        return self.model_dump(exclude={"output"}, exclude_none=True)


def load_recipe(named: str, environ: Mapping[str, str] | None = None, settings: Iterable[str] = ()) -> TrainRecipe:
    """A recipe's file, the folder of a training, or the name of a network, which stands for the default recipe.

    What trained into a folder goes on there, unless `output` says another. A name may be `NAME@width=16`.

    Args:
        environ: Variables, of which those that `toolkit.overrides` names set fields.
        settings: Such as "methods.recompute=true"; they beat the variables, which beat the file.

    Raises:
        InvalidInput: the file cannot be read, or fields are unknown, of another type, or out of range.
        UnknownName: there is neither such a file nor such a network.
    """
    path = Path(named)
    if path.is_dir() and (path / RECIPE).is_file():
        document = in_its_folder(read_yaml(path / RECIPE), path)
    elif path.suffix in (".yaml", ".yml"):
        document = read_yaml(path)
    elif path.exists() and named not in names():
        what = "a folder without recipe.yaml" if path.is_dir() else "no .yaml file"
        raise InvalidInput(
            f"{named} is {what}",
            hint="RECIPE is a .yaml file, the folder of a training, or a network of the zoo; data go to --data",
        )
    elif os.sep in named and "@" not in named:
        raise InvalidInput(f"cannot read {named}: there is no such file or folder", hint="check the path")
    else:
        found, config = configured(named)
        said = {} if config is None else {"config": config.model_dump(mode="json", exclude_unset=True)}
        document = Document(named, {"model": found.name, **said}, {})
    return _known(layered(document, environ or {}, settings))


def in_its_folder(document: Document, folder: Path) -> Document:
    """The recipe of a training in `folder`, which is where it goes on."""
    if not isinstance(document.data, dict):
        return document
    return replace(document, data={**document.data, "output": document.data.get("output") or str(folder)})


def config_of(recipe: TrainRecipe) -> BlueprintConfig | None:
    """What sets the network up, with the recipe's seed where it has none; None for a network of one size.

    Raises:
        InvalidInput: a field does not exist, has another type, or is out of its range.
    """
    kind = entry(recipe.model).config_type()
    if kind is not None:
        return parse(kind, {"seed": recipe.seed, **recipe.config})
    if recipe.config:
        raise InvalidInput(
            f"{recipe.model} comes in one size and takes no config", hint="leave the recipe's config out"
        )
    return None


def parse_recipe(fields: Mapping[str, Any], where: str) -> TrainRecipe:
    """A recipe from fields that do not stand in a file.

    Raises:
        InvalidInput: see `load_recipe`.
    """
    return _known(Document(where, dict(fields), {}))


def _known(document: Document) -> TrainRecipe:
    recipe = checked(TrainRecipe, document)
    try:
        entry(recipe.model)
    except ToolkitError as error:
        raise InvalidInput(f"{document.origin(['model'])}: {error.problem}", hint=error.hint) from error
    if recipe.config:  # else no network is imported for its fields
        _check_config(recipe, document)
    return recipe


def _check_config(recipe: TrainRecipe, document: Document) -> None:
    """Refuse wrong fields of the network, each where it was written."""
    try:
        config_of(recipe)
    except ConfigRefused as error:
        placed = [(f"{document.origin(['config', *at])}: {problem}", hint) for at, (problem, hint) in error.mistakes]
        raise refusal(document.name, placed) from error
    except InvalidInput as error:
        where = document.origin(["config", *recipe.config][:2])
        raise InvalidInput(f"{where}: {error.problem}", hint=error.hint) from error
