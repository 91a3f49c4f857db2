"""Learning a Koopman operator: networks lift states to where the motion is linear, and back; and a schedule in stages.

Layouts: B trajectory, T time, n of a state, m of a lifted state (observables). K takes columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from targets.errors import InvalidInput
from toolkit.training.recursive_edmd import RecursiveEDMD

__all__ = ["KoopmanNetwork", "Losses", "Schedule", "Stage", "StagedTraining", "multi_step_losses"]


class KoopmanNetwork(nn.Module):
    """x_(t+1) ≈ ψ(K φ(x_t)): φ lifts (…, n) to (…, m), K is a matrix (m, m), ψ brings (…, m) back to (…, n).

    φ(x) = [x, f(x)] holds the state itself beside learned observables; ψ(z) = z[: n] + g(z), where g begins at 0. So
    the untrained network is a linear model, K its identity.

    Args:
        n: Width of a state.
        observables: m, more than n.
        hidden: Widths of the hidden layers of f and of g.
        seed: Of the weights.

    Raises:
        InvalidInput: a size is out of range; in `forward` and `predict`, states are empty or of another width.

    Source: Lusch, Kutz and Brunton 2018, Nat. Commun. 9, 4950, arXiv:1712.09707; the state among the observables: Li,
    Dietrich, Bollt and Kevrekidis 2017, Chaos 27, 103111.
    """

    def __init__(self, n: int, observables: int, *, hidden: Sequence[int] = (64,), seed: int = 0) -> None:
        super().__init__()
        if n < 1 or observables <= n or not hidden or min(hidden) < 1:
            raise InvalidInput(
                f"{n} numbers are not lifted to {observables} through {list(hidden)}",
                hint="give more observables than the state has numbers, and a hidden layer",
            )
        self.n = n
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.observe = _network((n, *hidden, observables - n))
            self.correct = _network((observables, *reversed(hidden), n))
        last = self.correct[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.operator = nn.Parameter(torch.eye(observables))

    def lift(self, x: Tensor) -> Tensor:
        """φ: (…, m) of states (…, n)."""
        if not x.ndim or x.shape[-1] != self.n or not x.numel():
            raise InvalidInput(
                f"states are (..., {self.n}), not {tuple(x.shape)}", hint="give states of that width, one at least"
            )
        return torch.cat((x, self.observe(x)), -1)

    def inverse(self, z: Tensor) -> Tensor:
        """ψ: (…, n) of lifted states (…, m)."""
        back: Tensor = z[..., : self.n] + self.correct(z)
        return back

    def forward(self, x: Tensor) -> Tensor:
        """The next states (…, n)."""
        return self.inverse(self.lift(x) @ self.operator.t())

    def predict(self, x: Tensor, steps: int) -> Tensor:
        """(…, steps, n): the states that follow x (…, n), lifted once."""
        return self.inverse(self.advance(self.lift(x), steps))

    def advance(self, z: Tensor, steps: int) -> Tensor:
        """(…, steps, m): K z, K² z, … of lifted states (…, m)."""
        if steps < 1:
            raise InvalidInput(f"{steps} steps lead nowhere", hint="give 1 at least")
        found = []
        for _ in range(steps):
            z = z @ self.operator.t()
            found.append(z)
        return torch.stack(found, -2)


@dataclass(frozen=True)
class Losses:
    """Mean squares, (): `state` after lifting and coming back, `prediction` over steps, `linearity` of the lifted."""

    state: Tensor
    prediction: Tensor
    linearity: Tensor

    def total(self, *, state: float = 1.0, prediction: float = 1.0, linearity: float = 1.0) -> Tensor:
        """Weighted."""
        return state * self.state + prediction * self.prediction + linearity * self.linearity


def multi_step_losses(model: KoopmanNetwork, windows: Tensor) -> Losses:
    """With z = φ(x): |x_t − ψ(z_t)|², |x_t − ψ(Kᵗ z_0)|² for t >= 1, and |z_t − Kᵗ z_0|² for t >= 1.

    Args:
        windows: (B, T, n), T >= 2 states that follow each other.

    Raises:
        InvalidInput: windows are of another shape, empty, or not finite.

    Source: Lusch, Kutz and Brunton 2018, equations 5 to 8.
    """
    _refuse(windows, model.n)
    lifted = model.lift(windows)
    ahead = model.advance(lifted[:, 0], windows.shape[1] - 1)
    return Losses(
        (model.inverse(lifted) - windows).square().mean(),
        (model.inverse(ahead) - windows[:, 1:]).square().mean(),
        (ahead - lifted[:, 1:]).square().mean(),
    )


class Stage(StrEnum):
    """What learns by what: all by gradients; φ and ψ by gradients, K by the stream; K alone, by the stream."""

    WARM_UP = "warm-up"
    HYBRID = "hybrid"
    KOOPMAN = "koopman"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Epochs of each stage, one after the other; the last goes on if there are more.

    Raises:
        InvalidInput: a number is negative, or all are 0.
    """

    warm_up: int
    hybrid: int
    koopman: int

    def __post_init__(self) -> None:
        if min(self.warm_up, self.hybrid, self.koopman) < 0 or not self.epochs:
            raise InvalidInput(f"{self} trains nothing", hint="give each stage 0 epochs or more, and one of them 1")

    @property
    def epochs(self) -> int:
        """Of all stages."""
        return self.warm_up + self.hybrid + self.koopman

    def stage(self, epoch: int) -> Stage:
        """The stage of an epoch, counted from 0."""
        if epoch < self.warm_up:
            return Stage.WARM_UP
        if epoch < self.warm_up + self.hybrid or not self.koopman:
            return Stage.HYBRID if self.hybrid else Stage.WARM_UP
        return Stage.KOOPMAN


class StagedTraining:
    """One batch of training, by the stage of its epoch: warm-up, hybrid, Koopman.

    In the hybrid stage K is what recursive least squares find for the lifted pairs of the batches, older ones forgotten
    at `forgetting` a batch as φ moves on, and gradients flow through it into φ and ψ. In the Koopman stage φ stands
    still, the stream begins anew and forgets nothing, and no gradient is taken: a batch costs one lift and one QR.

    Off in every recipe. Where motion is free of noise it helps: on a pendulum (16 observables, 20 epochs) the error
    over 10 steps ends 7.5 to 15 times below a linear model's, by gradients alone 3.5 to 5.3 times, and what
    gradients reach takes 1.9 to 4.1 times less time (8 seeds). It hurts on real data: least squares of noisy pairs
    are biased towards 0, and one step ahead is all that they see. On ItalyPowerDemand the error over 10 hours ends
    1.3 times that of gradients, as it does where only the operator of a finished training is replaced; a character
    model's share of right guesses ends at 0.56 for 0.62. Equal quality is never reached there (10 and 8 seeds;
    `toolkit.bench.training_cost` koopman, koopman_language).

    Args:
        model: Is changed.
        optimizer: Of its parameters, the operator included.
        schedule: Of the epochs.
        forgetting: λ of the hybrid stage's stream, in (0, 1].
        ridge: Weight that draws K towards 0, > 0.

    Raises:
        InvalidInput: `forgetting` or `ridge` is out of range.

    Source: the stages are those of the ResNet-BK designs; the stream Hemati et al. 2014 and Williams et al. 2015.
    """

    def __init__(
        self,
        model: KoopmanNetwork,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        forgetting: float = 0.95,
        ridge: float = 1e-6,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        m = len(model.operator)
        self._streams = {
            Stage.HYBRID: RecursiveEDMD(m, forgetting=forgetting, ridge=ridge),
            Stage.KOOPMAN: RecursiveEDMD(m, ridge=ridge),
        }

    def batch(self, epoch: int, windows: Tensor) -> Stage:
        """Learn from windows (B, T, n) of consecutive states; says by which stage.

        Raises:
            InvalidInput: windows do not fit or are not finite, or the loss is not finite.
        """
        stage = self.schedule.stage(epoch)
        if stage is not Stage.WARM_UP:
            self._stream(stage, windows)
        if stage is not Stage.KOOPMAN:
            self._descend(windows, of_operator=stage is Stage.WARM_UP)
        return stage

    def state_dict(self) -> dict[str, Any]:
        """Of model, optimizer and streams: what a training that was cut off goes on from, to the same bits."""
        streams = {stage.value: stream.state_dict() for stage, stream in self._streams.items()}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of another training of equal sizes.

        Raises:
            InvalidInput: a stream's state is of other sizes; a model's raises what torch raises.
        """
        for stage, stream in self._streams.items():
            stream.load_state_dict(state["streams"][stage.value])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _stream(self, stage: Stage, windows: Tensor) -> None:
        _refuse(windows, self.model.n)
        lifted = self.model.lift(windows)
        stream = self._streams[stage]
        stream.update(lifted[:, :-1].flatten(0, 1), lifted[:, 1:].flatten(0, 1))
        self.model.operator.copy_(stream.operator)

    def _descend(self, windows: Tensor, *, of_operator: bool) -> None:
        self.optimizer.zero_grad()
        loss = multi_step_losses(self.model, windows).total()
        if not bool(torch.isfinite(loss)):
            raise InvalidInput(
                "the loss is not finite", hint="lower the rate; check that K has not grown without bound"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        if not of_operator:
            self.model.operator.grad = None
        self.optimizer.step()


def _network(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def _refuse(windows: Tensor, n: int) -> None:
    if windows.ndim != 3 or windows.shape[1] < 2 or windows.shape[2] != n or not len(windows):
        raise InvalidInput(
            f"windows are (B, T >= 2, {n}), not {tuple(windows.shape)}",
            hint="give consecutive states, one pair at least",
        )
    if not bool(torch.isfinite(windows).all()):
        raise InvalidInput("windows hold NaN or infinity", hint="leave such states out")
