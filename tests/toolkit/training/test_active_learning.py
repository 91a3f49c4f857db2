"""Active learning: the scores against worked values and scikit-learn, the loop, and what it refuses."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from torch import nn

from passes.dataset import Array
from targets.errors import InvalidInput, UnknownName
from toolkit.training.active_learning import (
    STRATEGIES,
    bald,
    core_set,
    entropy,
    features,
    margin,
    predicted,
    rounds,
    strategy,
)


def test_entropy_and_margin_against_worked_values() -> None:
    probabilities = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]])
    np.testing.assert_allclose(entropy(probabilities), [np.log(2), 0.0, np.log(3), 0.801819], atol=1e-6)
    np.testing.assert_allclose(margin(probabilities), [1.0, 0.0, 1.0, 0.5], atol=1e-12)


def test_bald_wants_disagreement_and_not_doubt() -> None:
    """Two sure members that disagree: ln 2. Two that agree to be unsure: nothing."""
    members = np.array([[[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]])
    np.testing.assert_allclose(bald(members), [np.log(2), 0.0, 0.0], atol=1e-12)


def test_core_set_is_the_greedy_k_center() -> None:
    """Against the definition, with scikit-learn's distances, on odd sizes."""
    rng = np.random.default_rng(0)
    for n, m, width, count in ((1, 1, 1, 1), (37, 5, 3, 37), (200, 11, 7, 20)):
        waiting, labelled = rng.standard_normal((n, width)), rng.standard_normal((m, width))
        chosen = core_set(waiting, labelled, count)
        centers, expected = labelled, []
        for _ in range(count):
            distance = pairwise_distances(waiting, centers).min(axis=1)
            distance[expected] = -1
            expected.append(int(distance.argmax()))
            centers = np.vstack([centers, waiting[expected[-1]]])
        assert list(chosen) == expected
    with pytest.raises(InvalidInput, match="2 of 1"):
        core_set(np.zeros((1, 2)), np.zeros((1, 2)), 2)


def _model(dropout: float = 0.5) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 3)).eval()


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_chooses_as_many_as_asked_and_leaves_no_trace(name: str) -> None:
    pool = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    model, state = _model(), torch.get_rng_state()
    before = [module.training for module in model.modules()]
    asked: list[int] = []

    def train(labelled: Array) -> nn.Module:
        assert len(np.unique(labelled)) == len(labelled)
        asked.append(len(labelled))
        return model

    def run() -> list[Array]:
        rng = np.random.default_rng(3)
        return [r.labelled for r in rounds(pool, train, strategy(name), first=5, step=10, most=32, rng=rng)]

    found = run()
    assert asked == [5, 15, 25, 32]
    for earlier, later in pairwise(found):
        np.testing.assert_array_equal(later[: len(earlier)], earlier)
    np.testing.assert_array_equal(found[-1], run()[-1])
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == before


def test_a_boundary_is_found_with_fewer_labels_than_at_random() -> None:
    """Logistic regression with one threshold: asking where it is unsure closes in on it."""
    x = torch.linspace(-1, 1, 401)[:, None]
    y = (x[:, 0] > 0.37).long()

    def train(labelled: Array) -> nn.Module:
        chosen = torch.from_numpy(np.sort(labelled))
        model = nn.Linear(1, 2)
        with torch.no_grad():
            ones, noughts = x[chosen][y[chosen] == 1], x[chosen][y[chosen] == 0]
            low, high = (noughts.max() if len(noughts) else -1.0), (ones.min() if len(ones) else 1.0)
            model.weight.copy_(torch.tensor([[-20.0], [20.0]]))
            model.bias.copy_(torch.tensor([20.0, -20.0]) * (low + high) / 2)
        return model

    def wrong(name: str) -> float:
        last = list(rounds(x, train, strategy(name), first=4, step=1, most=14, rng=np.random.default_rng(0)))[-1]
        return float((last.model(x).argmax(1) != y).float().mean())

    assert wrong("margin") == wrong("entropy") == 0.0 < wrong("random")


def test_what_a_model_cannot_say_is_refused() -> None:
    pool = torch.zeros(8, 2)
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidInput, match="no dropout"):
        strategy("bald")(nn.Linear(2, 2), pool, pool, 2, rng)
    with pytest.raises(InvalidInput, match="no linear layer"):
        features(nn.Flatten(), pool)
    with pytest.raises(UnknownName) as refusal:
        strategy("entrpy")
    assert refusal.value.hint == "did you mean 'entropy'?"
    for first, step, most in ((0, 1, 4), (9, 1, 9), (5, 1, 4), (2, 0, 4)):
        with pytest.raises(InvalidInput, match="no way to ask"):
            next(rounds(pool, lambda _: nn.Identity(), strategy("random"), first=first, step=step, most=most, rng=rng))

    def twice(*_arguments: object) -> Array:
        return np.zeros(2, np.int64)

    asking = rounds(pool, lambda _: nn.Identity(), twice, first=2, step=2, most=4, rng=rng)
    next(asking)
    with pytest.raises(InvalidInput, match="chose 1 samples where 2"):
        next(asking)


def test_probabilities_and_features_do_not_hang_on_chunks() -> None:
    model = _model()
    pool = torch.randn(1300, 2, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(predicted(model, pool).sum(axis=1), 1.0, rtol=1e-12)
    with torch.no_grad():
        np.testing.assert_allclose(features(model, pool), model[:3](pool), rtol=1e-5, atol=1e-6)  # type: ignore[index]
