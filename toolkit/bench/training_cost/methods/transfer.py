"""Digits of 8x8 pixels learned from the weights of a network that learned MNIST made as small."""

from __future__ import annotations

from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.fitting import cross_entropy, dataset
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import Task, accuracy, digits, image_network, mnist, mnist_missing, seeded
from toolkit.training.trainer import Settings, Trainer
from toolkit.training.transfer import GradualThaw, transplant

_EPOCHS, _RATE, _LABELLED = 30, 3e-3, 300


def _arm(start: str) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        whole = digits(seed)
        task = Task(whole.x[:_LABELLED], whole.y[:_LABELLED], whole.asked_x, whole.asked_y)
        model = seeded(image_network, seed)
        if start != "scratch":
            transplant(_source(seed), model)
        fit = Trainer(
            data=dataset(task),
            seed=seed,
            settings=Settings(batch=32, patience=0, held_out=0.0),
            thaw=GradualThaw(2) if start == "gradual thaw" else None,
            watcher=meter.watching(lambda trained: accuracy(trained, task), start),
        )
        fit(model, cross_entropy, step="transfer", epochs=_EPOCHS, rate=_RATE)

    return run


def _source(seed: int) -> nn.Module:
    """A network that was there before: its own training is not charged."""
    task = mnist(seed)
    small = Task(adaptive_avg_pool2d(task.x, 8), task.y, adaptive_avg_pool2d(task.asked_x, 8), task.asked_y)
    fit = Trainer(data=dataset(small), seed=seed, settings=Settings(patience=0, held_out=0.0))
    return fit(seeded(image_network, seed + 1000), cross_entropy, step="source", epochs=6, rate=_RATE)


ABLATION = Ablation(
    name="transfer",
    factor="data",
    task="300 of the digits, 14,000 parameters, accuracy on 360",
    arms={"scratch": _arm("scratch"), "all layers": _arm("all layers"), "gradual thaw": _arm("gradual thaw")},
    headline="all layers",
    margin=0.005,
    missing=mnist_missing,
    note="what the source cost to train, six epochs of MNIST-5k, is not charged",
)
