"""The trainer: what it learns, what it leaves alone, what it refuses, and that a kill changes nothing."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.context import Batch, Fit
from passes.dataset import Array, Dataset
from passes.metric import Metric
from targets.errors import InvalidInput
from toolkit.training.batches import Batches, held_out
from toolkit.training.optimizing import optimizer_for, share_of_rate
from toolkit.training.trainer import Settings, Trainer


def points(count: int = 96, labels: Array | None = None) -> Dataset:
    """Points in the plane, labelled by the quadrant."""
    x = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
    return Dataset.of_arrays("points", {"x": x}, (x > 0) @ np.array([1, 2]) if labels is None else labels)


def network(classes: int = 4) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, classes))


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    assert labels is not None
    loss: Tensor = nn.functional.cross_entropy(model(*inputs.values()), labels)
    return loss


def trained(fit: Fit, model: nn.Module | None = None, loss: Callable[..., Tensor] = cross_entropy, epochs: int = 4,
            rate: float = 0.02) -> nn.Module:  # fmt: skip
    return fit(model or network(), loss, step="test", epochs=epochs, rate=rate)


def weights(model: nn.Module) -> bytes:
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values())


def accuracy(model: nn.Module, data: Dataset) -> float:
    x = torch.from_numpy(np.concatenate([s["x"] for s in data]))
    with torch.no_grad():
        return float((model(x).argmax(1).numpy() == data.labels).mean())


def test_it_learns_and_leaves_the_model_that_it_was_given(tmp_path: Path) -> None:
    start = network()
    before = weights(start)
    data = points(256)
    after = trained(Trainer(data=data, folder=tmp_path), start, epochs=20)
    assert accuracy(after, data) > 0.95 > accuracy(start.eval(), data) + 0.2
    assert weights(start) == before
    assert not after.training


def test_equal_seeds_give_equal_bytes_and_nothing_global_moves() -> None:
    state = torch.get_rng_state()
    settings = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    first = weights(trained(Trainer(data=points())))
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        assert weights(trained(Trainer(data=points()))) == first
    assert weights(trained(Trainer(data=points(), seed=1))) != first


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from pathlib import Path
import test_trainer as t

calls = 0
def loss(model, batch):
    global calls
    calls += model.training
    if calls == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return t.cross_entropy(model, batch)

t.trained(t.in_steps_of_sixteen(Path(sys.argv[3]), float(sys.argv[4])), loss=loss)
"""


def in_steps_of_sixteen(folder: Path | None, interval_s: float) -> Trainer:
    return Trainer(data=points(), folder=folder, settings=Settings(batch=16, checkpoint_s=interval_s))


@pytest.mark.slow
@pytest.mark.parametrize(("interval_s", "left"), [(0.0, 10), (60.0, 12)], ids=["each step", "each epoch"])
def test_a_kill_in_mid_training_changes_no_bit(tmp_path: Path, interval_s: float, left: int) -> None:
    """6 batches an epoch, 4 epochs, killed in the third batch of the third epoch."""
    calls = 0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += model.training
        return cross_entropy(model, batch)

    places = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *places, str(tmp_path), str(interval_s)], check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    resumed = weights(trained(in_steps_of_sixteen(tmp_path, interval_s), loss=loss))
    assert calls == left
    assert weights(trained(in_steps_of_sixteen(tmp_path, interval_s), loss=loss)) == resumed
    assert calls == left, "what is finished is not done again"
    assert weights(trained(in_steps_of_sixteen(None, interval_s), loss=loss)) == resumed
    assert calls == left + 24


@pytest.mark.parametrize("change", ["seed", "data", "settings", "loss", "rate", "weights", "step"])
def test_what_decides_the_weights_names_the_checkpoint(tmp_path: Path, change: str) -> None:
    calls, factor = 0, 1.0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += model.training
        return cross_entropy(model, batch) * factor

    trained(Trainer(data=points(), folder=tmp_path), loss=loss, epochs=1)
    made = calls
    trained(Trainer(data=points(), folder=tmp_path), loss=loss, epochs=1)
    assert calls == made, "nothing changed"
    others: dict[str, Any] = {"seed": 1, "data": points(95), "settings": Settings(batch=32)}
    changed = {change: others[change]} if change in others else {}
    fit = Trainer(**{"data": points(), "folder": tmp_path, **changed})
    model = network()
    factor = 2.0 if change == "loss" else 1.0
    if change == "weights":
        model[0].weight.data[0, 0] += 1e-6  # type: ignore[index,union-attr]
    fit(model, loss, step="another" if change == "step" else "test", epochs=1, rate=0.01 if change == "rate" else 0.02)
    assert calls > made


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None], ids=["empty", "text", "cut off"])
def test_a_damaged_checkpoint_is_none(tmp_path: Path, damage: bytes | None) -> None:
    fit = Trainer(data=points(), folder=tmp_path)
    first = weights(trained(fit))
    (file,) = tmp_path.glob("*/*/training.pt")
    file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
    assert weights(trained(fit)) == first


def test_a_folder_that_cannot_be_written_is_said_and_training_goes_on(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("")
    after = trained(Trainer(data=points(), folder=tmp_path / "file"))
    assert weights(after) == weights(trained(Trainer(data=points())))
    assert "without a checkpoint" in caplog.text


def test_the_best_weights_are_kept_and_training_stops_early() -> None:
    """A rate that ruins the weights: those that training began with were the best."""
    calls = 0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += model.training
        return cross_entropy(model, batch)

    good = trained(Trainer(data=points(256)), epochs=20)
    after = trained(Trainer(data=points(256), settings=Settings(patience=2, batch=256)), good, loss, 50, rate=10.0)
    assert weights(after) == weights(good)
    assert calls == 2


def test_a_metric_judges_where_there_are_labels() -> None:
    """The metric likes what the loss does not: class 0 everywhere."""
    likes_nought = Metric("nought", lambda answer, _label: float(np.argmax(answer["output_0"]) == 0))
    data = points(64)
    for metric, share in ((likes_nought, 1.0), (None, 0.5)):
        model = network()
        with torch.no_grad():
            model[-1].bias.copy_(torch.tensor([9.0, 0, 0, 0]))  # type: ignore[index,union-attr]
        after = trained(Trainer(data=data, validation=data, metric=metric), model, epochs=60, rate=0.1)
        x = torch.from_numpy(np.concatenate([s["x"] for s in data]))
        with torch.no_grad():
            assert (float((after(x).argmax(1) == 0).float().mean()) == 1.0) is (share == 1.0)


def refused(**settings: Any) -> InvalidInput:
    arguments = {"data": points(), **settings}
    call = {name: arguments.pop(name) for name in ("model", "loss", "rate") if name in arguments}
    with pytest.raises(InvalidInput) as refusal:
        trained(Trainer(**arguments), **call)
    assert refusal.value.hint
    return refusal.value


def test_what_cannot_be_trained_is_refused_before_time_is_spent() -> None:
    def counting(model: nn.Module, batch: Batch) -> Tensor:
        assert not model.training, "no step was taken"
        return cross_entropy(model, batch)

    assert "labels go from 0 to 3, the model's first output has 3 classes" in str(
        refused(model=network(3), loss=counting)
    )
    negative = points(8, np.array([0, 1, 2, 3, -1, 0, 1, 2]))
    assert "labels go from -1" in str(refused(data=negative, loss=counting))
    assert "labels go from -1" in str(refused(validation=negative, loss=counting))
    assert "no samples" in str(refused(data=Dataset("none", list, 0), loss=counting))
    assert "no input 'y'" in str(refused(inputs=("y",), loss=counting))
    nan = Metric("broken", lambda _answer, _label: float("nan"))
    assert "'broken' is not a number" in str(refused(validation=points(), metric=nan, loss=counting))
    for epochs, rate in ((-1, 0.1), (1, 0.0), (1, float("nan"))):
        with pytest.raises(InvalidInput, match="cannot train"):
            trained(Trainer(data=points()), epochs=epochs, rate=rate)
    assert "no parameter" in str(refused(model=network().requires_grad_(False), loss=counting))
    assert "before training" in str(refused(loss=lambda model, batch: cross_entropy(model, batch) / 0))
    ragged = [{"x": np.zeros((1, n), np.float32)} for n in (2, 3)]
    assert "their shapes differ: (1, 2), (1, 3)" in str(
        refused(data=Dataset("ragged", lambda: ragged, 2), loss=counting)
    )


def test_a_loss_that_is_lost_says_where() -> None:
    steps = 0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal steps
        steps += model.training
        return cross_entropy(model, batch) * (float("nan") if steps == 5 else 1.0)

    error = refused(settings=Settings(batch=32), loss=loss)
    assert str(error) == "test: the loss is not finite in epoch 2, batch 2"
    assert "lower the rate" in error.hint


def test_batches_are_even_and_each_sample_comes_once_an_epoch() -> None:
    data = points(65)
    for held_bytes in (10**6, 100):  # held, and read anew with twelve samples to draw from
        batches = Batches(data=data, size=16, seed=0, held_bytes=held_bytes)
        epochs = [list(batches.shuffled(epoch)) for epoch in range(2)]
        assert [len(b[0]["x"]) for b in epochs[0]] == [13] * 5
        rows = [torch.cat([b[0]["x"] for b in epoch]) for epoch in epochs]
        assert not torch.equal(rows[0], rows[1])
        expected = np.concatenate([s["x"] for s in data])
        for epoch, x in zip(epochs, rows, strict=True):
            labels = torch.cat([b[1] for b in epoch if b[1] is not None])
            np.testing.assert_array_equal(np.sort(x.numpy(), 0), np.sort(expected, 0))
            np.testing.assert_array_equal((x.numpy() > 0) @ np.array([1, 2]), labels)
        late = list(batches.shuffled(1, start=3))
        assert torch.equal(late[0][0]["x"], epochs[1][3][0]["x"])
        assert len(late) == 2
        assert torch.equal(torch.cat([b[0]["x"] for b in batches.in_order()]), torch.from_numpy(expected))


def test_what_is_held_out_is_not_trained_on() -> None:
    data = points(50)
    kept, judged = held_out(data, 0.1, seed=0)
    assert judged is not None
    assert (len(kept), len(judged)) == (45, 5)
    rows = [{s["x"].tobytes() for s in part} for part in (kept, judged)]
    assert not rows[0] & rows[1]
    assert judged.labels is not None
    for sample, label in zip(judged, judged.labels, strict=True):
        assert label == (sample["x"][0] > 0) @ np.array([1, 2])
    assert kept.digest != judged.digest
    few = points(9)
    assert held_out(few, 0.1, 0) == (few, None)


def test_a_few_samples_judge_what_they_train() -> None:
    """Weights that were best from the start are kept from the decay; where none judges, they are not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = nn.Linear(2, 4)

    def loss(model: nn.Module, _batch: Batch) -> Tensor:
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return torch.stack([(p - q.detach()).abs().sum() for p, q in pairs]).sum()

    for share, kept in ((0.1, True), (0.0, False)):
        fit = Trainer(data=points(9), inputs=("x",), settings=Settings(held_out=share))
        trained = fit(start, loss, step="few", epochs=3, rate=1.0)
        assert torch.equal(trained.weight, start.weight) is kept  # type: ignore[arg-type]


def test_rates_rise_then_fall_and_vectors_do_not_decay() -> None:
    rates = [share_of_rate(step, 100, 0.1) for step in range(100)]
    assert max(rates) == rates[10] == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    decaying, others = optimizer_for(network(), 0.1, 0.5).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert {p.ndim for p in decaying["params"]} == {2}
    assert {p.ndim for p in others["params"]} == {1}
