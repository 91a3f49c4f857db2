"""Easy digits first, by the loss of a network that was trained for one epoch; what that costs is charged."""

from __future__ import annotations

from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.fitting import cross_entropy, dataset
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import accuracy, digits, image_network, seeded
from toolkit.training.batches import Batches
from toolkit.training.curriculum import Curriculum, difficulty_by_loss
from toolkit.training.trainer import Settings, Trainer

_EPOCHS, _RATE = 12, 3e-3


def _arm(easy: bool) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        task = digits(seed)
        known = dataset(task)
        fit = Trainer(data=known, seed=seed, settings=Settings(patience=0, held_out=0.0))
        model = seeded(image_network, seed)
        sampling = None
        if easy:
            scout_watcher = meter.watching(lambda _model: float("-inf"), "scout")
            scout_fit = Trainer(data=known, seed=seed, settings=fit.settings, watcher=scout_watcher)
            scout = scout_fit(model, cross_entropy, step="scout", epochs=1, rate=_RATE)
            with meter.step("difficulty"):
                hard = difficulty_by_loss(scout, Batches(data=known, size=64, seed=seed).in_order())
            sampling = Curriculum(difficulty=hard, epochs=_EPOCHS // 2)
        watcher = meter.watching(lambda trained: accuracy(trained, task))
        fit = Trainer(data=known, seed=seed, settings=fit.settings, sampling=sampling, watcher=watcher)
        fit(model, cross_entropy, step="curriculum", epochs=_EPOCHS, rate=_RATE)

    return run


ABLATION = Ablation(
    name="curriculum",
    factor="data",
    task="digits, 1,437 images, 14,000 parameters, accuracy on 360",
    arms={"all at random": _arm(False), "easy first": _arm(True)},
    headline="easy first",
    margin=0.005,
)
