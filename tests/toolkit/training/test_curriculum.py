"""Curricula: how many samples are open when, and that a training under one is repeatable and resumes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import Dataset
from targets.errors import InvalidInput
from toolkit.training.batches import Batches
from toolkit.training.curriculum import Curriculum, competence, difficulty_by_length, difficulty_by_loss
from toolkit.training.trainer import Settings, Trainer


def test_competence_is_the_published_function() -> None:
    """Platanios et al. 2019: the root form with c0 = 0.01 is 0.316 after a tenth, the linear one 0.109."""
    assert competence(0.1, 0.01) == pytest.approx(0.31637, abs=1e-5)
    assert competence(0.1, 0.01, power=1.0) == pytest.approx(0.109)
    assert competence(0.0, 0.3) == pytest.approx(0.3)
    assert competence(1.0, 0.3) == 1.0
    assert competence(7.0, 0.3) == 1.0


@given(
    count=st.integers(1, 200),
    start=st.floats(1e-9, 1.0),
    power=st.floats(0.5, 5.0),
    done=st.floats(0.0, 2.0),
    more=st.floats(0.0, 1.0),
)
def test_never_empty_and_never_shrinking(count: int, start: float, power: float, done: float, more: float) -> None:
    made = Curriculum(difficulty=np.arange(count), epochs=3, start=start, power=power)
    before, after = made.available(done, count), made.available(done + more, count)
    assert 1 <= before <= after <= count
    assert made.available(1.0, count) == count


def test_the_first_draws_are_the_easiest_and_the_last_epochs_are_everything() -> None:
    difficulty = np.random.default_rng(0).permutation(1000)
    made = Curriculum(difficulty=difficulty, epochs=4, start=0.1)
    first = made.draw(0, 1000, np.random.default_rng(1))
    assert len(first) == 1000
    assert difficulty[first[:50]].max() < 300  # the share open after 50 of 4000 draws is 0.15
    assert sorted(made.draw(4, 1000, np.random.default_rng(1))) == list(range(1000))
    third = difficulty[made.draw(3, 1000, np.random.default_rng(1))]
    assert third.max() > 950
    assert np.array_equal(made.draw(2, 1000, np.random.default_rng(5)), made.draw(2, 1000, np.random.default_rng(5)))


def test_harder_is_what_a_trained_model_finds_harder() -> None:
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    x = np.array([[3.0], [0.1], [-2.0]], np.float32)
    data = Dataset.of_arrays("x", {"x": x}, np.array([1, 1, 1]))
    found = difficulty_by_loss(model, Batches(data=data, size=2, seed=0).in_order())
    expected = nn.functional.cross_entropy(torch.from_numpy(x) @ model.weight.detach().T, torch.ones(3).long(),
                                           reduction="none")  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert list(np.argsort(found)) == [0, 1, 2]
    assert list(difficulty_by_length(np.array([3, 1, 2]))) == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"difficulty": np.array([])}, "cannot be put in order"),
        ({"difficulty": np.array([1.0, np.nan])}, "cannot be put in order"),
        ({"epochs": 0}, "means nothing"),
        ({"start": 0.0}, "means nothing"),
        ({"power": 0.0}, "means nothing"),
    ],
)
def test_what_means_nothing_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Curriculum(**{"difficulty": np.arange(4), "epochs": 2, **arguments})  # type: ignore[arg-type]


def _fit(folder: Path | None, **changes: object) -> Trainer:
    x = np.random.default_rng(0).standard_normal((96, 2)).astype(np.float32)
    data = Dataset.of_arrays("points", {"x": x}, (x[:, 0] > 0).astype(np.int64))
    sampling = Curriculum(difficulty=-np.abs(x[:, 0]), epochs=2, start=0.2)
    settings = Settings(batch=32, held_out=0.0, patience=0, checkpoint_s=0.0)
    return Trainer(**{"data": data, "folder": folder, "sampling": sampling, "settings": settings, **changes})  # type: ignore[arg-type]


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    assert labels is not None
    return nn.functional.cross_entropy(model(inputs["x"]), labels)


def _model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(2, 2)


def test_a_training_under_a_curriculum_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = _fit(None)(_model(), _loss, step="c", epochs=4, rate=0.1)
    steps = 0

    def dying(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal steps
        steps += model.training
        if steps == 5:
            raise KeyboardInterrupt
        return _loss(model, batch)

    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path)(_model(), dying, step="c", epochs=4, rate=0.1)
    resumed = _fit(tmp_path)(_model(), _loss, step="c", epochs=4, rate=0.1)
    assert torch.equal(resumed.weight, whole.weight)  # type: ignore[arg-type]
    plain = _fit(None, sampling=None)
    assert not torch.equal(plain(_model(), _loss, step="c", epochs=4, rate=0.1).weight, whole.weight)  # type: ignore[arg-type]
    assert plain.key != _fit(None).key


def test_data_that_cannot_be_drawn_from_are_refused() -> None:
    data = Dataset.of_arrays("points", {"x": np.zeros((8, 100), np.float32)}, np.zeros(8, np.int64))
    sampling = Curriculum(difficulty=np.arange(8), epochs=1)
    with pytest.raises(InvalidInput, match="larger than the 0 MiB"):
        next(Batches(data=data, size=2, seed=0, held_bytes=100, sampling=sampling).shuffled(0))
    short = Curriculum(difficulty=np.arange(7), epochs=1)
    with pytest.raises(InvalidInput, match="8 samples and 7 difficulties"):
        next(Batches(data=data, size=2, seed=0, sampling=short).shuffled(0))
