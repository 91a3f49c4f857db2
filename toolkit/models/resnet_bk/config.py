"""What a ResNet-BK is made of; every option of it in one place."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from targets.errors import InvalidInput
from toolkit.models.blueprints.config import BlueprintConfig

__all__ = ["Config"]

Count = Annotated[int, Field(ge=1, le=2**20)]


class Config(BlueprintConfig):
    """Sizes and options of a ResNet-BK language model; the defaults fit a board."""

    vocabulary: Annotated[int, Field(ge=2, le=2**20)] = 128
    """Ids are below it."""
    width: Count = 64
    """Features of a token."""
    blocks: Annotated[int, Field(ge=1, le=256)] = 2
    """Blocks, one after another."""
    heads: Annotated[int, Field(ge=1, le=4096)] = 8
    """Potentials in a block, each with an energy and a broadening of its own."""
    experts: Annotated[int, Field(ge=1, le=4096)] = 4
    """Experts in a block."""
    chosen: Annotated[int, Field(ge=1, le=2)] = 1
    """Experts that answer for one token."""
    hidden: Count = 128
    """Hidden features of an expert."""
    context: Annotated[int, Field(ge=1, le=2**24)] = 256
    """Rows of the position table: the longest sequence where positions are learned."""
    positions: Literal["learned", "none"] = "learned"
    """Whether tokens are told their places; without, a sequence may have any length: the chain knows neighbours."""
    mode: Literal["causal", "both_sides"] = "causal"
    """What a token may see: only those up to it, to predict the next one; or all, to fill in hidden ones."""
    links: Literal["constant", "learned"] = "constant"
    """Hopping between neighbours: one number a head, or that times a gate of the right one of both tokens."""
    broadening_low: Annotated[float, Field(gt=0, le=100)] = 0.1
    """The least imaginary part of the energies: how far a head remembers is about 1 / it."""
    broadening_high: Annotated[float, Field(gt=0, le=100)] = 1.0
    """The largest; heads lie between both at equal ratios."""
    potential_clamp: Annotated[float, Field(gt=0)] | None = 3.0
    """Potentials are kept within ± this; null: as they come."""
    feature_clamp: Annotated[float, Field(gt=0)] | None = 10.0
    """So are [Re G, Im G]; null: as they come, which is at most 1 / broadening."""
    scales: Annotated[int, Field(ge=1, le=16)] = 1
    """Chains at 1, 1/2, 1/4 … of the length."""
    kept_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the positions that become sites of the chain; what is between them is interpolated."""
    storage: Literal["float32", "int8"] = "float32"
    """How potentials and features are kept between the steps of a block."""
    ponder_steps: Annotated[int, Field(ge=0, le=64)] = 0
    """How often the blocks may be applied to a token at most, halting for each token by itself; 0: once."""
    ponder_weight: Annotated[float, Field(ge=0)] = 0.01
    """What a step of pondering costs in the loss."""
    balance_weight: Annotated[float, Field(ge=0)] = 0.01
    """What experts unevenly used cost in the loss."""

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.chosen > self.experts:
            raise InvalidInput(
                f"resnet_bk: {self.chosen} experts cannot be chosen of {self.experts}",
                hint="raise experts or lower chosen",
            )
        if self.broadening_low > self.broadening_high:
            raise InvalidInput(
                f"resnet_bk: broadening_low = {self.broadening_low:g} is above broadening_high = "
                f"{self.broadening_high:g}",
                hint="swap them",
            )
        if self.storage == "int8" and self.potential_clamp is None:
            raise InvalidInput("resnet_bk: potentials in int8 need a range", hint="set potential_clamp, such as 3.0")
        return self
