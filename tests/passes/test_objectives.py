"""What a network is trained towards, against the formulas written out."""

import pytest
import torch
from torch import Tensor, nn

from passes.torch_level.objectives import Aim, Objective
from targets.errors import InvalidInput

X = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0]])
LABELS = torch.tensor([0, 2, 1])


def linear(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(2, 3)


class Two(nn.Module):
    """A second output, and one of integers that no loss can follow."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner = linear(seed)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.inner(x)
        return y, 10 * y, y.argmax(1)


def loss(aim: Aim, labels: Tensor | None, model: nn.Module | None = None, reference: nn.Module | None = None) -> Tensor:
    found: Tensor = Objective(aim, reference or linear(1))(model or linear(0), ({"x": X}, labels))
    return found


def test_each_aim_is_its_formula() -> None:
    answer, truth = linear(0)(X), linear(1)(X).detach()
    entropy = -torch.log_softmax(answer, 1)[range(3), LABELS].mean()
    p, q = torch.softmax(truth / 2, 1), torch.softmax(answer / 2, 1)
    divergence = 4 * (p * (p / q).log()).sum(1).mean()
    distance = (answer - truth).square().mean() / truth.square().mean()
    torch.testing.assert_close(loss("labels", LABELS), entropy)
    torch.testing.assert_close(loss("both", LABELS), entropy + divergence)
    torch.testing.assert_close(loss("auto", LABELS), entropy + divergence)
    torch.testing.assert_close(loss("reference", LABELS), distance)
    torch.testing.assert_close(loss("auto", None), distance)
    torch.testing.assert_close(loss("auto", None, Two(0), Two(1)), 2 * distance)  # a scale changes nothing


def test_the_reference_gets_no_gradient_and_stays_trainable() -> None:
    reference, model = linear(1), linear(0)
    loss("both", LABELS, model, reference).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None and p.requires_grad for p in reference.parameters())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("aim", ["labels", "both"])
def test_labels_that_are_asked_for_and_missing_are_said(aim: Aim) -> None:
    with pytest.raises(InvalidInput, match="no labels") as refusal:
        loss(aim, None)
    assert "reference" in refusal.value.hint
