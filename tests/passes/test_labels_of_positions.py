"""Labels may be those of positions: losses, metrics and checks count classes for each of them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from passes.context import Context
from passes.contract import PassFailed
from passes.dataset import UNASKED, Dataset
from passes.metric import TOP1, each_label
from passes.torch_level.losses import label_loss
from passes.torch_level.objectives import Objective
from passes.torch_level.prune_channels import PruneChannels
from targets.errors import InvalidInput
from targets.target import load_stack
from toolkit.sources import load_source
from toolkit.training.batches import Batches
from toolkit.training.judging import judge
from toolkit.training.trainer import Settings, Trainer

POSITIONS, CLASSES = 5, 7


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(CLASSES, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES)).eval()


def data(labels: Any = None) -> Dataset:
    numbers = np.random.default_rng(0).integers(0, CLASSES, (8, POSITIONS))
    return Dataset.of_arrays("numbers", {"input": numbers}, numbers if labels is None else labels)


def test_losses_are_means_over_positions() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, POSITIONS, CLASSES, generator=rng)
    labels = torch.randint(CLASSES, (3, POSITIONS), generator=rng)
    each = [cross_entropy(logits[i, t], labels[i, t]) for i in range(3) for t in range(POSITIONS)]
    want = torch.stack(each).mean()
    torch.testing.assert_close(label_loss(logits, labels), want)
    torch.testing.assert_close(label_loss(logits.softmax(-1), labels, probabilities=True), want)
    torch.testing.assert_close(Objective("labels", nn.Identity())(nn.Identity(), ({"x": logits}, labels)), want)
    both = Objective("both", nn.Identity())(nn.Identity(), ({"x": logits}, labels))
    torch.testing.assert_close(both, want)  # it answers as the reference does: nothing is added


def test_top1_is_the_share_of_positions() -> None:
    logits = np.zeros((1, POSITIONS, CLASSES), np.float32)
    logits[0, range(POSITIONS), [0, 1, 2, 3, 4]] = 1
    (labels,) = each_label(np.array([[0, 1, 2, 0, 0]]))
    assert TOP1.score({"output": logits}, labels) == pytest.approx(3 / 5)
    assert TOP1.score({"output": logits}, np.array([0, 1, 2, 0, UNASKED])) == pytest.approx(3 / 4)
    assert each_label(np.array([3, 4])) == [3, 4]


def test_top1_counts_no_answer_that_is_not_a_number() -> None:
    """argmax finds NaN the largest: at class 0, or wherever it stands."""
    for where in range(CLASSES):
        logits = np.zeros((1, CLASSES), np.float32)
        logits[0, where] = np.nan
        assert TOP1.score({"output": logits}, where) == 0.0
    assert TOP1.score({"output": np.full((1, POSITIONS, CLASSES), np.nan)}, np.zeros(POSITIONS, np.int64)) == 0.0
    assert TOP1.score({"output": np.array([[0.0, np.inf]])}, 1) == 1.0
    assert TOP1.score({"output": np.array([[0, 3, 1]])}, 1) == 1.0


def test_the_judged_loss_is_the_mean_over_the_positions_that_are_asked() -> None:
    """Whatever the batches: of 8 samples, one to five positions each are asked."""
    labels = np.where(np.arange(POSITIONS) <= np.arange(8)[:, None] % POSITIONS, data().labels, UNASKED)
    masked, model = data(labels), network()
    with torch.no_grad():
        logits = model(torch.from_numpy(data().labels)).flatten(0, 1)
    want = float(cross_entropy(logits, torch.from_numpy(labels).flatten()))
    for size in (1, 3, 8):
        batches = Batches(data=masked, size=size, seed=0).in_order()
        metric, loss = judge(model, lambda m, b: label_loss(m(b[0]["input"]), b[1]), batches, None, torch.device("cpu"))  # type: ignore[arg-type]
        assert -loss == pytest.approx(want, rel=1e-6)
        assert metric == 0.0


@pytest.mark.slow
def test_a_trainer_judges_positions() -> None:
    fit = Trainer(data=data(), validation=data(), metric=TOP1, settings=Settings(batch=4, patience=0))
    trained = fit(network(), lambda m, b: label_loss(m(b[0]["input"]), b[1]), step="copy", epochs=40, rate=1e-2)  # type: ignore[arg-type]
    answers = trained(torch.from_numpy(np.concatenate([s["input"] for s in data()]))).argmax(-1)
    assert np.array_equal(answers.numpy(), data().labels)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.full((8, POSITIONS), CLASSES), "out of range"),
        (np.zeros((8, POSITIONS + 1), np.int64), "do not fit"),
        (np.zeros((8, POSITIONS, CLASSES), np.int64), "do not fit"),
    ],
)
def test_labels_that_no_position_can_have_are_refused(labels: Any, said: str) -> None:
    fit = Trainer(data=data(), settings=Settings(batch=4))
    ctx = Context(stack=load_stack("desktop_cpu/onnxruntime-int8"), data=data(labels), fit=fit)
    program = load_source((network(), (torch.zeros(1, POSITIONS, dtype=torch.int64),))).program
    with pytest.raises(PassFailed, match=said):
        PruneChannels(ratio=0.2).requires(program, ctx)
    if labels.ndim == 2:
        with pytest.raises(InvalidInput, match=f"has {CLASSES} classes" if said == "out of range" else said):
            Trainer(data=data(labels))(network(), lambda m, b: m(b[0]["input"]).sum(), step="x", epochs=1, rate=1e-3)
