"""The claim's own ground: a character model whose last stage takes no gradient, its operator by least squares."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import ALPHABET, accuracy, batches, characters
from toolkit.rng import generator
from toolkit.training.koopman import Schedule, Stage
from toolkit.training.recursive_edmd import RecursiveEDMD

_CONTEXT, _WIDTH, _EPOCHS, _RATE, _BATCH, _PER_EPOCH = 64, 96, 12, 3e-3, 16, 120
GRADIENTS = Schedule(warm_up=_EPOCHS, hybrid=0, koopman=0)
STAGED = Schedule(warm_up=4, hybrid=4, koopman=4)


class _Characters(nn.Module):
    """Numbers of characters (B, T) to scores of the next one, (B, T, alphabet): two causal convolutions lift the past.

    What is lifted holds a constant, so that the operator's rows need no bias.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET), _WIDTH)
        self.first, self.second = nn.Conv1d(_WIDTH, _WIDTH, 4), nn.Conv1d(_WIDTH, _WIDTH - 1, 4, dilation=4)
        self.operator = nn.Linear(_WIDTH, len(ALPHABET), bias=False)

    def lift(self, x: Tensor) -> Tensor:
        """(B, T, observables)."""
        h = self.embed(x).transpose(1, 2)
        h = torch.tanh(self.first(nn.functional.pad(h, (3, 0))))
        h = torch.tanh(self.second(nn.functional.pad(h, (12, 0)))).transpose(1, 2)
        return nn.functional.pad(h, (0, 1), value=1.0)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.operator(self.lift(x))
        return scores


def _arm(schedule: Schedule) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        task = characters(seed, _CONTEXT)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(seed, "koopman language").integers(2**31)))
            model = _Characters()
        optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
        streams = {stage: RecursiveEDMD(_WIDTH, len(ALPHABET), forgetting=forgetting, ridge=1.0, dtype=torch.float32)
                   for stage, forgetting in ((Stage.HYBRID, 0.98), (Stage.KOOPMAN, 1.0))}  # fmt: skip
        for epoch in range(_EPOCHS):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - epoch / _EPOCHS)
            stage = schedule.stage(epoch)
            for number, (x, y) in enumerate(batches(task, _BATCH, seed, epoch)):
                if number == _PER_EPOCH:
                    break
                with meter.step(stage.value, samples=y.numel()):
                    _learn(model, optimizer, x, y, stage, streams.get(stage))
                if stage is not Stage.WARM_UP:
                    meter.spend("flops", _of_qr(y.numel() + _WIDTH, _WIDTH + len(ALPHABET)))
            meter.judge(accuracy(model, task))

    return run


def _learn(
    model: _Characters, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, stage: Stage,
    stream: RecursiveEDMD | None,
) -> None:  # fmt: skip
    with torch.set_grad_enabled(stage is not Stage.KOOPMAN):
        lifted = model.lift(x)
    indicators = nn.functional.one_hot(y, len(ALPHABET)).to(lifted)
    if stream is not None:
        with torch.no_grad():
            stream.update(lifted.flatten(0, 1), indicators.flatten(0, 1))
            model.operator.weight.copy_(stream.operator)
    if stage is Stage.KOOPMAN:
        return
    scores = model.operator(lifted)
    loss = (nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten()) if stage is Stage.WARM_UP
            else (scores - indicators).square().sum(-1).mean())  # fmt: skip
    optimizer.zero_grad()
    loss.backward()
    if stage is Stage.HYBRID:
        model.operator.weight.grad = None
    optimizer.step()


def _of_qr(rows: int, columns: int) -> float:
    """FLOPs of Householder's QR, which torch does not count. Source: Golub and Van Loan 2013, section 5.2.2."""
    return 2 * columns**2 * (rows - columns / 3)


ABLATION = Ablation(
    name="koopman_language",
    factor="koopman",
    claimed=100.0,
    task="Python's help topics, 70,000 parameters, share of next characters that are right",
    arms={"gradients": _arm(GRADIENTS), "staged": _arm(STAGED)},
    headline="staged",
    cost="time_s",
    margin=0.005,
    note="the operator goes from the lifted past to the indicators of the next character",
)
