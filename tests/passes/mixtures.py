"""Mixtures of eight experts in a small classifier of digits, and contexts to prune them in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from passes.context import Context
from passes.dataset import Dataset
from passes.program import Program
from passes.torch_level.prune_experts import PruneExperts
from tests.passes.pruned_programs import PI
from tests.passes.pruned_programs import program_of as torch_program
from toolkit.models import digits

EXPERTS = 8


def mlp(width: int, hidden: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class Dense(nn.Module):
    """Every expert is computed; a softmax over the best `top_k` logits weighs them, the others have zeros."""

    def __init__(self, width: int = 32, experts: int = EXPERTS, top_k: int = 2) -> None:
        super().__init__()
        self.num_experts, self.top_k = experts, top_k
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(mlp(width) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        best, which = self.gate(x).topk(self.top_k, dim=-1)
        weights, x_in = torch.zeros(*x.shape[:-1], self.num_experts).scatter(-1, which, best.softmax(-1)), x
        for expert, weight in zip(self.experts, weights.unbind(-1), strict=True):
            x = x + expert(x_in) * weight.unsqueeze(-1)
        return x


class Soft(nn.Module):
    """All answer, each with its weight; first the experts, then the gate."""

    def __init__(self, width: int = 32, experts: int = EXPERTS) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(width) for _ in range(experts))
        self.gating = nn.Linear(width, experts)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.stack([expert(x) for expert in self.experts], -1)
        return x + (made * self.gating(x).softmax(-1).unsqueeze(-2)).sum(-1)


class Net(nn.Module):
    """Eight layers built alike and eight classes: what chooses nothing is no router."""

    def __init__(self, layer: Callable[[], nn.Module], classes: int = 10) -> None:
        super().__init__()
        self.embed, self.moe, self.classify = nn.Linear(64, 32), layer(), nn.Linear(32, classes)
        self.more = nn.ModuleList(nn.Linear(32, 32) for _ in range(classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.moe(self.embed(x.flatten(1)))
        for layer in self.more:
            x = x + layer(x).relu() / 4
        return self.classify(x)


def program_of(module: nn.Module) -> Program:
    """The module as a program that takes one digit."""
    return torch_program(module, image=np.zeros((1, 1, 8, 8), np.float32))


def images(count: int) -> Dataset:
    (pictures, _), _ = digits.split()
    return Dataset.of_arrays("digits", {"image": pictures[:count]})


def context(**fields: Any) -> Context:
    return Context(stack=PI, **{"data": images(64), **fields})


def layers_of(program: Program) -> list[Any]:
    step = PruneExperts(epochs=0)
    return step._layers(program, context())
