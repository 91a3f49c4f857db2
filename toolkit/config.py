"""What the user asked for, as a file: `toolkit.yaml` of a project and `recipe.yaml` of a bundle read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from targets.errors import InvalidInput

__all__ = ["PROJECT_FILE", "Config", "load_config"]

PROJECT_FILE = "toolkit.yaml"


class BudgetConfig(BaseModel):
    """How far answers may move; see `passes.context.Budget`."""

    model_config = ConfigDict(extra="forbid")
    min_sqnr_db: Annotated[float, Field(allow_inf_nan=False)] = 10.0
    max_metric_drop: Annotated[float, Field(allow_inf_nan=False)] = 0.01


class Config(BaseModel):
    """A compile as a file. Every field may be left out; a flag beats the file. `--trust` is a flag only."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    target: str | None = None
    stack: str | None = None
    data: str | None = None
    validation: str | None = None
    preprocess: str | None = None
    input: list[str] = Field(default_factory=list)
    fix: list[str] = Field(default_factory=list)
    output: str | None = None
    seed: int = 0
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    recipe: str | None = None
    trainer: str | None = None
    passes: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    measured: dict[str, list[Literal["slower", "not slower"]]] | None = None


def load_config(path: Path) -> Config:
    """Read a project file or a recipe.

    Raises:
        InvalidInput: it cannot be read, is not YAML, or has a field that does not exist.
    """
    try:
        data = yaml.safe_load(path.read_text("utf-8")) or {}
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} is not YAML: {' '.join(str(error).split())[:200]}", hint="correct the line it names"
        ) from error
    if not isinstance(data, dict):
        raise InvalidInput(f"{path} is not a mapping of fields", hint=f"fields: {', '.join(Config.model_fields)}")
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidInput(
            f"{path}: {field}: {first['msg']}", hint=f"fields: {', '.join(Config.model_fields)}"
        ) from error
