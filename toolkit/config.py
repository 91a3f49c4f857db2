"""What the user asked for, as a file: `toolkit.yaml` of a project and `recipe.yaml` of a bundle read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolkit.fields import checked
from toolkit.yaml_file import read_yaml

__all__ = ["PROJECT_FILE", "Config", "WorkFields", "load_config"]

PROJECT_FILE = "toolkit.yaml"


class BudgetConfig(BaseModel):
    """How far answers may move; see `passes.context.Budget`."""

    model_config = ConfigDict(extra="forbid")
    min_sqnr_db: Annotated[float, Field(allow_inf_nan=False)] = 10.0
    max_metric_drop: Annotated[float, Field(allow_inf_nan=False)] = 0.01


class WorkFields(BaseModel):
    """What is worked on and where it goes: the same in the file of a compile and in that of a search."""

    model: str | None = None
    stack: str | None = None
    data: str | None = None
    validation: str | None = None
    preprocess: str | None = None
    input: list[str] = Field(default_factory=list)
    fix: list[str] = Field(default_factory=list)
    output: str | None = None


class Config(WorkFields):
    """A compile as a file. Every field may be left out; a flag beats the file. `--trust` is a flag only."""

    model_config = ConfigDict(extra="forbid")
    target: str | None = None
    seed: int = 0
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    recipe: str | None = None
    trainer: str | None = None
    passes: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    measured: dict[str, list[Literal["slower", "not slower"]]] | None = None


def load_config(path: Path) -> Config:
    """Read a project file or a recipe.

    Raises:
        InvalidInput: it cannot be read, is not YAML, or has fields that do not exist or are wrong: all are named, with
            their lines.
    """
    return checked(Config, read_yaml(path))
