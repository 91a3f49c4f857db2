"""A folder that `toolkit train` made: weights, the recipe that they came from, and what was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.errors import InvalidInput
from toolkit.models.registry import Entry, entry
from toolkit.yaml_file import read_yaml

if TYPE_CHECKING:
    from torch import Tensor, nn

    from toolkit.models.blueprints.config import BlueprintConfig

__all__ = [
    "CHECKPOINT",
    "ORGANISM",
    "RECIPE",
    "REPORT",
    "WEIGHTS",
    "Trained",
    "is_organism",
    "is_trained",
    "load_weights",
    "open_trained",
    "sha256",
]

WEIGHTS, RECIPE, REPORT = "model.safetensors", "recipe.yaml", "report.json"
CHECKPOINT = "checkpoint.pt"
"""What an unfinished training left; it goes when the training is finished."""

ORGANISM = "organism.json"
"""By this file a folder is known for an organism's, which has weights and a report of another kind."""

_SCHEMA = "toolkit.train/1"
_AGAIN = "train it again: toolkit train RECIPE -o FOLDER --force"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network of the zoo with the weights of a folder, in eval mode."""

    path: Path
    entry: Entry
    config: BlueprintConfig | None
    model: nn.Module
    report: Mapping[str, Any]

    @property
    def own_data(self) -> bool:
        """Whether it was trained on data that the user named, which the zoo's may not resemble."""
        return bool(self.report["data"]["given"])


def is_trained(path: Path) -> bool:
    """Whether `path` looks like a folder of a training, finished or not."""
    return path.is_dir() and ((path / WEIGHTS).is_file() or (path / CHECKPOINT).is_file())


def is_organism(path: Path) -> bool:
    """Whether `path` looks like the folder of an organism."""
    return path.is_dir() and (path / ORGANISM).is_file()


def open_trained(path: Path) -> Trained:
    """The network in a folder, its files held against the hashes in the report.

    Raises:
        InvalidInput: the training is not finished, a file is missing, damaged or changed, or made by another version.
        UnknownName: the zoo has no such network (any more).
    """
    if (path / CHECKPOINT).is_file() and not (path / REPORT).is_file():
        raise InvalidInput(
            f"the training in {path} is not finished", hint=f"go on with it: toolkit train RECIPE -o {path}"
        )
    report = _report(path)
    for name, wanted in report["files"].items():
        if sha256(path / name) != wanted:
            raise InvalidInput(f"{path / name} is not what its training wrote", hint=_AGAIN)
    recipe = _recipe(path)
    found = entry(str(recipe.get("model")))
    config = _config(found, recipe.get("config") or {}, path)
    model = found.build(config)
    load_weights(model, path / WEIGHTS)
    return Trained(path=path, entry=found, config=config, model=model.eval(), report=report)


def _report(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / REPORT).read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot read {path / REPORT}: {error.strerror}", hint=_AGAIN) from error
    except ValueError as error:
        raise InvalidInput(f"{path / REPORT} is cut short or damaged", hint=_AGAIN) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != _SCHEMA:
        raise InvalidInput(
            f"{path} was made by another version: its report is {schema!r}, this one reads {_SCHEMA!r}",
            hint=f"open it with the version that made it, or {_AGAIN}",
        )
    files, data = found.get("files"), found.get("data")
    if not isinstance(files, dict) or set(files) != {WEIGHTS, RECIPE} or not isinstance(data, dict):
        raise InvalidInput(f"{path / REPORT} is damaged", hint=_AGAIN)
    report: dict[str, Any] = found
    return report


def _recipe(path: Path) -> dict[str, Any]:
    try:
        found = read_yaml(path / RECIPE).data
    except InvalidInput as error:
        raise InvalidInput(error.problem, hint=_AGAIN) from error
    if not isinstance(found, dict) or not isinstance(found.get("config") or {}, dict):
        raise InvalidInput(f"{path / RECIPE} is not a mapping of fields", hint=_AGAIN)
    return found


def _config(found: Entry, fields: Mapping[str, Any], path: Path) -> BlueprintConfig | None:
    kind = found.config_type()
    if kind is None:
        return None
    from toolkit.models.blueprints.config import parse

    try:
        return parse(kind, fields)
    except InvalidInput as error:
        raise InvalidInput(f"{path / RECIPE}: {error.problem}", hint=error.hint) from error


def sha256(path: Path) -> str:
    """Of a file's bytes.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", hint=_AGAIN) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` with the weights of a safetensors file; each must be there, in its shape and type.

    Raises:
        InvalidInput: the file is damaged, or its weights are those of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}", hint=_AGAIN) from error
    except SafetensorError as error:
        raise InvalidInput(f"{path} is cut short or damaged: {error}", hint=_AGAIN) from error
    if problem := _unlike(model.state_dict(), weights):
        raise InvalidInput(
            f"{path} holds the weights of another network: {problem}",
            hint="they go with the model and config of the recipe beside them",
        )
    model.load_state_dict(weights)


def _unlike(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The first difference of two sets of weights in words; empty where there is none."""
    for name in sorted(set(wanted) | set(found)):
        if name not in found:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} belongs to no layer"
        have, want = found[name], wanted[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            return f"{name} is {have.dtype} {list(have.shape)} instead of {want.dtype} {list(want.shape)}"
    return ""
