"""A Koopman network of a real series: gradients throughout, or the staged schedule whose operator is least squares."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import Task, batches, series, series_missing
from toolkit.training.koopman import KoopmanNetwork, Schedule, Stage, StagedTraining

_DELAYS, _STEPS, _OBSERVABLES, _EPOCHS, _RATE, _BATCH = 8, 10, 32, 20, 5e-3, 128
GRADIENTS = Schedule(warm_up=_EPOCHS, hybrid=0, koopman=0)
STAGED = Schedule(warm_up=4, hybrid=12, koopman=4)
HYBRID = Schedule(warm_up=4, hybrid=16, koopman=0)
LAST = Schedule(warm_up=16, hybrid=0, koopman=4)


def windows(of: Tensor) -> Tensor:
    """(B, steps + 1, delays) of series (n, 1, length), every second: a state is so many consecutive values."""
    states = of[:, 0].unfold(1, _DELAYS, 1)
    return states.unfold(1, _STEPS + 1, 2).movedim(-1, -2).flatten(0, 1).contiguous()


def _quality(model: KoopmanNetwork, asked: Tensor) -> float:
    """Minus the logarithm of the root mean square error, 1 to 10 values ahead."""
    with torch.no_grad():
        ahead = model.predict(asked[:, 0], _STEPS)[..., -1]
    return -log(float((ahead - asked[:, 1:, -1]).square().mean().sqrt()))


def _arm(schedule: Schedule) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        whole = series("ItalyPowerDemand", seed)
        learnt, asked = windows(whole.x), windows(whole.asked_x)
        task = Task(learnt, learnt, asked, asked)
        model = KoopmanNetwork(_DELAYS, _OBSERVABLES, seed=seed)
        training = StagedTraining(model, torch.optim.Adam(model.parameters(), lr=_RATE), schedule)
        for epoch in range(_EPOCHS):
            training.optimizer.param_groups[0]["lr"] = _RATE * (1 - epoch / _EPOCHS)
            stage = schedule.stage(epoch)
            for x, _ in batches(task, _BATCH, seed, epoch):
                with meter.step(stage.value, samples=len(x)):
                    training.batch(epoch, x)
                if stage is not Stage.WARM_UP:
                    meter.spend("flops", _of_qr(len(x) * _STEPS + _OBSERVABLES, 2 * _OBSERVABLES))
            meter.judge(_quality(model, asked))

    return run


def _of_qr(rows: int, columns: int) -> float:
    """FLOPs of Householder's QR, which torch does not count. Source: Golub and Van Loan 2013, section 5.2.2."""
    return 2 * columns**2 * (rows - columns / 3)


ABLATION = Ablation(
    name="koopman",
    factor="koopman",
    claimed=100.0,
    task="ItalyPowerDemand's series, 32 observables of 8 hours, minus log of the error over 10 hours",
    arms={
        "gradients": _arm(GRADIENTS),
        "staged": _arm(STAGED),
        "hybrid to the end": _arm(HYBRID),
        "least squares last": _arm(LAST),
    },
    headline="staged",
    cost="time_s",
    missing=series_missing,
    note="a forecast, what the method is for; `koopman_language` is the claim's own ground; least squares see one step",
)
