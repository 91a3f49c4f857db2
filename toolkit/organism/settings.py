"""Sizes of a model that is made of organisms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from targets.errors import InvalidInput
from toolkit.models.blueprints.config import BlueprintConfig

__all__ = ["SlimeConfig"]

Count = Annotated[int, Field(ge=1, le=2**20)]


class SlimeConfig(BlueprintConfig):
    """The defaults make a small network over features."""

    inputs: Count = 1
    """Features of a token, or the size of the vocabulary where tokens are ids."""
    outputs: Count = 1
    """Numbers that are answered: logits of classes, or values."""
    length: Count = 16
    """Tokens of a sequence at most: rows of the position table."""
    ids: bool = False
    """Whether tokens are ids."""
    causal: bool = False
    """Whether a token sees only those up to it."""
    asked: Literal["each", "last", "mean"] = "each"
    """Which tokens answer: each for itself, the last one, or the mean of all."""
    d_model: Count = 32
    """Features of a token within."""
    founders: Annotated[int, Field(ge=1, le=4096)] = 4
    """Components that each layer begins with."""
    head_dim: Annotated[int, Field(ge=1, le=256)] = 8
    """Width of a head; a component has one."""
    rank: Annotated[int, Field(ge=1, le=2**20)] | None = None
    """Of the components' matrices, kept as factors."""
    layers: Annotated[int, Field(ge=1, le=256)] = 2
    """Layers."""
    hidden: Count = 64
    """Hidden features at a position."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of features that training leaves out."""
    max_components: Annotated[int, Field(ge=1, le=4096)] = 64
    """Of a layer."""
    min_components: Annotated[int, Field(ge=0, le=4096)] = 1
    """Of a layer."""
    budget_bytes: Annotated[int, Field(ge=1, le=2**50)] = 2**30
    """Of the components of a layer."""
    grace_steps: Annotated[int, Field(ge=0, le=2**31)] = 200
    """Steps after its birth in which nobody is culled."""

    @model_validator(mode="after")
    def _fits_together(self) -> SlimeConfig:
        if not self.min_components <= self.founders <= self.max_components:
            raise InvalidInput(
                f"slime: {self.founders} founders, where {self.min_components} to {self.max_components} may live",
                hint="choose founders between min_components and max_components",
            )
        return self
