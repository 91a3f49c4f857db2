"""FoldBatchNorm at the torch level: what it folds, and the layers it must leave alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from passes.compare import compare
from passes.context import Context
from passes.contract import PassFailed
from passes.dataset import Dataset
from passes.program import Program
from passes.proof import Decision
from passes.torch_level.fold_batch_norm import FoldBatchNorm

Make = Callable[..., Any]


def norms(program: Program) -> list[str]:
    return [n for n, m in program.model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


FOLDED = {
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), (2, 3, 6, 6)),
    "no bias": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)), (2, 3, 6, 6)),
    "groups": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (2, 4, 6, 6)),
    "same padding": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8)), (2, 3, 6, 6)),
    "reflect padding": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8)), (2, 3, 6, 6),
    ),
    "no affine": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)), (2, 3, 6, 6)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)), (2, 3, 6)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4)), (2, 3, 4, 4, 4)),
    "linear": (lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)), (2, 5)),
    "linear, no bias": (lambda: nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8)), (2, 5)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)), (2, 3, 6, 6)),
    "two in a row": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)),
        (2, 3, 6, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_a_norm_behind_a_layer_goes_into_it(case: str, torch_program: Make, context: Make, noise: Make) -> None:
    build, shape = FOLDED[case]
    start = torch_program(build(), x=noise(*shape))
    before = start.digest
    after, proof = FoldBatchNorm()(start, context())
    assert proof.decision is Decision.KEPT
    assert norms(after) == []
    assert proof.worst_sqnr_db > 110
    assert (start.digest, norms(start) != []) == (before, True), "the module given stays as it was"
    assert not after.model.training


class Shared(nn.Module):
    """One convolution, called twice, each time with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.conv(self.a(self.conv(x))))
        return y


class SharedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.a(x)) + self.norm(self.b(x))
        return y


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z: Tensor = self.norm(y) + y
        return z


class NormFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.norm(x))
        return y


class ReluBetween(NormFirst):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x).relu())
        return y


@pytest.mark.parametrize("module", [Shared, SharedNorm, ReadTwice, NormFirst, ReluBetween])
def test_what_cannot_be_folded_is_left_alone(
    module: type[nn.Module], torch_program: Make, context: Make, noise: Make
) -> None:
    start = torch_program(module(), x=noise(2, 3, 6, 6))
    after, proof = FoldBatchNorm()(start, context())
    assert proof.decision is Decision.KEPT
    assert norms(after) == norms(start)
    assert after.digest == start.digest
    assert proof.worst_sqnr_db == float("inf")


class TiedWeights(nn.Module):
    """Two convolutions with one weight tensor: folding one of them must not move the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.a(x)) + self.b(x)
        return y


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (TiedWeights, (2, 3, 6, 6)),
        (lambda: nn.Sequential(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)), (2, 4, 6, 6)),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5)), (2, 5, 4)),
        (lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), (2, 5, 4)),
    ],
    ids=["tied weights", "grouped transposed convolution", "norm over time", "norm over time, equal sizes"],
)
def test_answers_survive_whatever_is_folded(
    build: Callable[[], nn.Module], shape: tuple[int, ...], torch_program: Make, context: Make, noise: Make
) -> None:
    """Neither a wrong fold that the proof must revert (and every right one with it) nor a crash."""
    start = torch_program(build(), x=noise(*shape))
    after, proof = FoldBatchNorm()(start, context())
    assert proof.decision is Decision.KEPT
    (drift,) = compare(start, after, Dataset.of_arrays("d", {"x": noise(4, *shape[1:], seed=3)}))
    assert drift.sqnr_db > 110


def test_one_layer_it_cannot_fold_does_not_cost_the_others(torch_program: Make, context: Make, noise: Make) -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Flatten(), nn.Linear(25, 3), nn.BatchNorm1d(3))
    after, proof = FoldBatchNorm()(torch_program(module, x=noise(2, 5, 4)), context())
    assert proof.decision is Decision.KEPT
    assert norms(after) == ["1"]


def test_a_script_is_folded_later(context: Make, noise: Make, torch_program: Make) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    script = torch.jit.trace(module, torch.zeros(1, 3, 6, 6))
    with pytest.raises(PassFailed) as refusal:
        FoldBatchNorm()(torch_program(script, x=noise(1, 3, 6, 6)), context())
    assert refusal.value.hint


def test_a_module_without_norms_stays(torch_program: Make, noise: Make) -> None:
    ctx: Context = Context(stack=None)  # type: ignore[arg-type]
    start = torch_program(nn.Linear(3, 4), x=noise(1, 3))
    assert FoldBatchNorm().apply(start, ctx).model is start.model
