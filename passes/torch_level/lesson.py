"""What a student learns in: its own network with the maps from its features to the teacher's, and the loss of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.torch_level.feature_pairs import Pair, captured
from passes.torch_level.losses import Teacher, answers_of, attention_distance, feature_distance

__all__ = ["Learner", "Lesson"]


class Learner(nn.Module):
    """A student, called like it, and a linear map for each pair of features of other widths."""

    def __init__(self, student: nn.Module, pairs: Sequence[Pair], seed: int) -> None:
        super().__init__()
        self.student = student
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.maps = nn.ModuleList(
                nn.Identity() if p.widths[0] == p.widths[1] else nn.Linear(*p.widths, bias=False) for p in pairs
            )

    def forward(self, *inputs: Any) -> Any:
        return self.student(*inputs)


class Lesson(nn.Module):
    """The teacher's loss, the distance of features and that of attention maps, each with its weight."""

    def __init__(self, teacher: Teacher, pairs: Sequence[Pair], feature_weight: float, attention: float) -> None:
        super().__init__()
        self.teacher, self.pairs = teacher, tuple(pairs)
        self.feature_weight, self.attention = feature_weight, attention

    def forward(self, learner: Learner, batch: Batch) -> Tensor:
        """The loss of `learner`, a scalar."""
        signature = self.teacher.signature
        with torch.no_grad(), captured(self.teacher.model, [p.teacher for p in self.pairs]) as theirs:
            right = answers_of(self.teacher.model, batch, signature)
        with captured(learner.student, [p.student for p in self.pairs]) as mine:
            answers = answers_of(learner.student, batch, signature)
        loss = self.teacher.compare(answers, right, batch[1])
        for i, pair in enumerate(self.pairs):
            a, b = mine[pair.student], theirs[pair.teacher]
            if self.feature_weight:
                mapped = learner.maps[i](a.movedim(pair.axis, -1))
                loss = loss + self.feature_weight * feature_distance(mapped, b.movedim(pair.axis, -1)) / len(self.pairs)
            if self.attention:
                loss = loss + self.attention * attention_distance(a, b, pair.axis) / len(self.pairs)
        return loss
