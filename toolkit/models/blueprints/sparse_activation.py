"""A feed-forward block of whose hidden features only k are active at each position.

    score = importance(x) + weight · novelty(x)          (…, D)
    threshold = middle between the k-th and the (k+1)-th largest score of the position
    evaluation:  gate = 1 for the k largest scores, else 0
    training:    gate = σ((score − threshold + g₁ − g₂) / T),  g of the Gumbel distribution

Importance is a learned bottleneck network; novelty is how many running deviations a feature lies from its running mean;
the threshold adapts to every position. T falls from the first to the last temperature over the first
`annealing_steps` forward passes in training, so that the relaxed gate becomes the one of evaluation. Ties go to the
lower index: exactly k are active, always.

What is selected is a mask: runtimes with dense products compute the zeros as well, so it buys nothing there by itself.

Shapes: (B, L, W) to (B, L, W), (B, W) to (B, W). For: sensors in which little happens; analysis of what a layer needs.

Sources: Ahmad and Scheinkman 2019, arXiv:1903.11257 (k winners); Jang et al. 2017, arXiv:1611.01144, and Maddison et
al. 2017, arXiv:1611.00712 (relaxation by Gumbel noise, of which the difference of two is logistic, and its annealing).
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from targets.errors import InvalidInput
from toolkit.models.blueprints.motion_classifier import (
    MotionClassifier,
    MotionConfig,
    calibration,
    check_sequence,
    example,
    training,
    validation,
)
from toolkit.models.blueprints.written_norm import WrittenNorm
from toolkit.models.seeded import seeded

__all__ = [
    "Config", "SparseActivation", "SparseFeedForward", "build", "calibration", "example", "training", "validation",
]  # fmt: skip

_TINY = 1e-6


class Config(MotionConfig):
    """How many features there are, how many stay, and how the choice is trained."""

    hidden: Annotated[int, Field(ge=2, le=1024)] = 64
    """Features that are chosen among."""
    active: Annotated[int, Field(ge=1, le=1024)] = 16
    """k: features that are active at a position; fewer than `hidden`."""
    novelty_weight: Annotated[float, Field(ge=0, le=100)] = 0.25
    """Of novelty, beside importance, where training begins."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of a new batch in the running mean and variance."""
    first_temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Of the relaxed gate, at the first step."""
    last_temperature: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Of the relaxed gate, when annealing is over."""
    annealing_steps: Annotated[int, Field(ge=1)] = 1000
    """Forward passes in training until then."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.active >= self.hidden:
            raise InvalidInput(
                f"sparse_activation: active = {self.active} of hidden = {self.hidden} leaves nothing to choose",
                hint="make `active` smaller than `hidden`",
            )
        if self.last_temperature > self.first_temperature:
            raise InvalidInput(
                f"sparse_activation: last_temperature = {self.last_temperature} is above first_temperature = "
                f"{self.first_temperature}",
                hint="the temperature falls while training goes on",
            )
        return self


class SparseActivation(nn.Module):
    """Keeps k of the last axis's features and sets the others to zero."""

    mean: Tensor
    variance: Tensor
    steps: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        features = config.hidden
        self.config = config
        self.importance = nn.Sequential(
            nn.Linear(features, features // 2), nn.ReLU(), nn.Linear(features // 2, features)
        )
        self.novelty_weight = nn.Parameter(torch.tensor(config.novelty_weight))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """`x` (…, D) times its gate; training draws from torch's generator, as dropout does."""
        score = self.scores(x)
        if not self.training:
            return x * self.chosen(score).to(x.dtype)
        gate = self.relaxed(score, self.temperature)
        self._follow(x)
        return x * gate.to(x.dtype)

    def scores(self, x: Tensor) -> Tensor:
        """Importance and novelty of each feature, float32 (…, D)."""
        importance: Tensor = self.importance(x)
        return importance.float() + self.novelty_weight * self.novelty(x)

    def novelty(self, x: Tensor) -> Tensor:
        """How many running deviations each feature lies from its running mean, from 0 up to 8."""
        return ((x.float() - self.mean).abs() * torch.rsqrt(self.variance + _TINY)).clamp(max=8.0)

    def chosen(self, score: Tensor) -> Tensor:
        """1 for exactly k features of each position, else 0. Among equal scores the lower index wins.

        A feature is chosen where fewer than k are ahead of it. Compared with each other, not sorted: every runtime
        compares, few sort.
        """
        index = torch.arange(score.shape[-1], device=score.device)
        earlier = (index[None, :] < index[:, None]).to(score.dtype)  # [i, j]: j stands before i
        mine, other = score.unsqueeze(-1), score.unsqueeze(-2)
        ahead = (other > mine).to(score.dtype) + (other == mine).to(score.dtype) * earlier
        return (ahead.sum(-1) < self.config.active - 0.5).to(score.dtype)

    def relaxed(self, score: Tensor, temperature: float | Tensor, *, noise: bool = True) -> Tensor:
        """A gate in (0, 1) with slopes; without noise and at a temperature near zero it is that of `chosen`."""
        highest = score.topk(self.config.active + 1, dim=-1).values
        threshold = highest[..., -2:].mean(-1, keepdim=True)
        margin = score - threshold
        if noise:
            uniform = torch.rand_like(score).clamp(_TINY, 1 - _TINY)
            margin = margin + torch.log(uniform) - torch.log1p(-uniform)
        return torch.sigmoid(margin / temperature)

    @property
    def temperature(self) -> Tensor:
        """Falls geometrically with the forward passes made in training."""
        c = self.config
        done = (self.steps / c.annealing_steps).clamp(max=1)
        return c.first_temperature * (c.last_temperature / c.first_temperature) ** done

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        rows = x.detach().float().reshape(-1, x.shape[-1])
        mean = rows.mean(0)
        self.mean.lerp_(mean, self.config.momentum)
        self.variance.lerp_((rows - mean).square().mean(0), self.config.momentum)
        self.steps += 1


class SparseFeedForward(nn.Module):
    """x + narrow(sparse(widen(norm(x)))): choosing the winners is what is not linear in it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = WrittenNorm(config.width)
        self.widen = nn.Linear(config.width, config.hidden)
        self.sparse = SparseActivation(config)
        self.narrow = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) or (B, W), as it came."""
        check_sequence(x, self.norm.normalized_shape[0])
        result: Tensor = x + self.narrow(self.sparse(self.widen(self.norm(x))))
        return result


def build(config: Config = Config()) -> nn.Module:
    """The classifier of motion with one such block."""
    with seeded(config.seed):
        return MotionClassifier(config.width, SparseFeedForward(config)).eval()
