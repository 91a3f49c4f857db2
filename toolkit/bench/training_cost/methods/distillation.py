"""A small network that learns digits from a larger one's answers as well as from the labels."""

from __future__ import annotations

from passes.torch_level.objectives import Objective
from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.fitting import cross_entropy, dataset
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import Task, accuracy, digits, image_network, seeded
from toolkit.models.digits import Small
from toolkit.training.trainer import Settings, Trainer

_EPOCHS, _RATE = 20, 3e-3


def _arm(taught: bool) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        task = digits(seed)
        fit = Trainer(
            data=dataset(task),
            seed=seed,
            settings=Settings(patience=0, held_out=0.0),
            watcher=meter.watching(lambda trained: accuracy(trained, task)),
        )
        loss = _lesson(task, seed) if taught else cross_entropy
        fit(seeded(Small, seed), loss, step="distillation", epochs=_EPOCHS, rate=_RATE)

    return run


def _lesson(task: Task, seed: int) -> Objective:
    """Labels and a teacher that learned from the same images: its training is not charged, its answers are."""
    fit = Trainer(data=dataset(task), seed=seed, settings=Settings(patience=0, held_out=0.0))
    start = seeded(lambda: image_network(width=32), seed + 1000)
    teacher = fit(start, cross_entropy, step="teacher", epochs=15, rate=_RATE)
    return Objective("both", teacher.requires_grad_(False), temperature=2.0)


ABLATION = Ablation(
    name="distillation",
    factor="algorithms",
    task="digits, 1,437 images, a student of 3,400 parameters, accuracy on 360",
    arms={"labels": _arm(False), "teacher as well": _arm(True)},
    headline="teacher as well",
    margin=0.005,
    note="the teacher's answers are charged, its own training is not",
)
