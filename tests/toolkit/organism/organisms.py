"""Small organisms of founders, and the bits of what they answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toolkit.organism.organism import Organism
from toolkit.organism.species import Species


def organism_of(count: int = 4, d_model: int = 32, species: Species | None = None, **options: Any) -> Organism:
    return Organism.of_founders(d_model, species or Species(8), count, budget_bytes=10**8, **options)


def bits(x: Tensor) -> Tensor:
    return x.detach().view(torch.int32)
