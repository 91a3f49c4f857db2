"""Memory that fades, held against the sum that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import DescriptorError
from toolkit.organism.errors import ShapeError
from toolkit.organism.tubes import TubeNetwork


def test_two_hundred_stores_are_the_explicit_sum() -> None:
    decays, rng = np.array([0.5, 0.9, 0.999]), np.random.default_rng(0)
    tubes = TubeNetwork(decays.tolist())
    now, stored = 0, []
    for _ in range(200):
        steps, weight, x = int(rng.integers(0, 4)), float(rng.uniform(0.1, 2)), rng.normal(size=(2, 3))
        now += steps
        tubes.tick(steps)
        tubes.store(torch.from_numpy(x), weight)
        stored.append((now, weight, x))
    tubes.tick(2)
    now += 2
    for k, decay in enumerate(decays):
        weights = np.array([w * decay ** (now - t) for t, w, _ in stored])
        wanted = np.tensordot(weights, np.array([x for *_, x in stored]), 1) / weights.sum()
        assert np.abs(tubes.recall_each()[k].numpy() - wanted).max() < 1e-12
    assert np.abs(tubes.recall().numpy() - tubes.recall_each().mean(0).numpy()).max() == 0


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(0.01, 5), st.integers(0, 3)), min_size=1, max_size=20))
def test_recall_lies_between_what_was_stored(stored: list[tuple[float, float, int]]) -> None:
    tubes = TubeNetwork([0.7])
    for value, weight, steps in stored:
        tubes.store(torch.tensor([value], dtype=torch.float64), weight)
        tubes.tick(steps)
    values = [value for value, *_ in stored]
    assert min(values) - 1e-9 <= float(tubes.recall()) <= max(values) + 1e-9


@given(st.floats(-1e3, 1e3), st.integers(1, 10))
def test_a_constant_is_recalled_as_itself(value: float, times: int) -> None:
    tubes = TubeNetwork([0.3, 0.9])
    for _ in range(times):
        tubes.store(torch.full((2,), value, dtype=torch.float64))
        tubes.tick()
    assert torch.allclose(tubes.recall(), torch.full((2,), value, dtype=torch.float64), rtol=1e-12)


def test_what_faded_away_is_gone() -> None:
    tubes = TubeNetwork([0.5])
    assert tubes.recall() is None
    tubes.store(torch.ones(2))
    tubes.tick(39)
    assert tubes.recall() is not None
    tubes.tick(1)
    assert tubes.recall() is None  # 2^-40 is below 1e-12
    tubes.clear()
    tubes.store(torch.ones(3))
    assert tubes.recall().shape == (3,)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_mean_nothing_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        TubeNetwork([0.5]).store(torch.ones(2), weight)


def test_shapes_and_decays_are_checked() -> None:
    tubes = TubeNetwork([0.5])
    tubes.store(torch.ones(2))
    with pytest.raises(ShapeError, match="after"):
        tubes.store(torch.ones(3))
    with pytest.raises(ValueError, match="backwards"):
        tubes.tick(-1)
    for decay in ([], [0.0], [1.0], [0.5, 1.5]):
        with pytest.raises(DescriptorError, match="decays"):
            TubeNetwork(decay)


def test_it_comes_back_from_a_state_dict() -> None:
    tubes, again = TubeNetwork([0.5, 0.9]), TubeNetwork([0.5, 0.9])
    tubes.store(torch.arange(3.0), 2.0)
    tubes.tick(3)
    again.load_state_dict(tubes.state_dict())
    for one in (tubes, again):
        one.store(torch.ones(3))
    assert torch.equal(again.recall_each(), tubes.recall_each())
    with pytest.raises(ShapeError, match="decays"):
        TubeNetwork([0.5, 0.8]).load_state_dict(tubes.state_dict())


def test_gradients_flow_where_they_are_kept() -> None:
    for detach in (True, False):
        tubes, x = TubeNetwork([0.5], detach=detach), torch.ones(2, requires_grad=True)
        tubes.store(x)
        assert tubes.recall().requires_grad is not detach
