"""Losses against formulas written out, and what they do with what is not finite."""

import math

import numpy as np
import pytest
import torch

from targets.errors import InvalidInput
from toolkit.rng import torch_generator
from toolkit.training.organism.losses import MultiObjective, contrastive, cross_entropy, distillation, mse


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(0, "losses", *shape), dtype=torch.float64)


def test_cross_entropy_is_the_mean_over_the_labels_that_count() -> None:
    logits, labels = drawn(2, 3, 4), torch.tensor([[0, 3, -100], [2, -100, 1]])
    rows = [(0, 0), (0, 1), (1, 0), (1, 2)]
    by_hand = [math.log(logits[i].exp().sum()) - float(logits[i][labels[i]]) for i in rows]
    assert float(cross_entropy(logits, labels)) == pytest.approx(np.mean(by_hand))


def test_smoothing_spreads_probability_over_all_classes() -> None:
    logits, labels = drawn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    log_p = logits.log_softmax(1)
    wanted = torch.full((5, 3), 0.1 / 3, dtype=torch.float64)
    wanted[torch.arange(5), labels] += 0.9
    assert float(cross_entropy(logits, labels, smoothing=0.1)) == pytest.approx(float(-(wanted * log_p).sum(1).mean()))


def test_where_no_label_counts_the_mean_is_no_number() -> None:
    assert torch.isnan(cross_entropy(drawn(2, 3), torch.full((2,), -100)))


def test_contrast_is_symmetric_and_knows_its_own() -> None:
    left, right = drawn(6, 4), drawn(6, 4) + 1
    assert float(contrastive(left, right)) == pytest.approx(float(contrastive(right, left)))
    assert float(contrastive(left, 3 * left, temperature=0.01)) < 1e-6 < float(contrastive(left, left.roll(1, 0)))
    assert float(contrastive(torch.ones(4, 2), torch.ones(4, 2))) == pytest.approx(math.log(4))


def test_distillation_is_the_divergence_of_softened_classes_times_the_temperature_squared() -> None:
    student, teacher = drawn(3, 5), drawn(3, 5) * 2
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    by_hand = float((p * (p / q).log()).sum(1).mean()) * 4
    assert float(distillation(student, teacher, temperature=2.0)) == pytest.approx(by_hand)
    teacher.requires_grad_()
    distillation(student.requires_grad_(), teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None


def test_a_sum_shows_its_parts_and_hides_no_infinity() -> None:
    both = MultiObjective({"task": 1.0, "size": 0.5})
    total, parts = both({"task": torch.tensor(2.0), "size": torch.tensor(4.0)})
    assert (float(total), {n: float(v) for n, v in parts.items()}) == (4.0, {"task": 2.0, "size": 2.0})
    assert not torch.isfinite(both({"task": torch.tensor(float("nan")), "size": torch.tensor(0.0)})[0])
    unweighted = MultiObjective({"task": 1.0, "size": 0.0})
    assert torch.isnan(unweighted({"task": torch.tensor(1.0), "size": torch.tensor(float("inf"))})[0])


def test_what_does_not_fit_is_refused() -> None:
    for refused in (
        lambda: cross_entropy(drawn(2, 3), torch.tensor([0])),
        lambda: mse(drawn(2, 1), drawn(2)),
        lambda: contrastive(drawn(1, 4), drawn(1, 4)),
        lambda: contrastive(drawn(3, 4), drawn(3, 4), temperature=0.0),
        lambda: distillation(drawn(2, 3), drawn(2, 4)),
        lambda: MultiObjective({}),
        lambda: MultiObjective({"a": float("nan")}),
        lambda: MultiObjective({"a": 1.0})({"b": torch.tensor(1.0)}),
    ):
        with pytest.raises(InvalidInput):
            refused()
