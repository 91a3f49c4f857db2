"""The ground around weights: how sharp it is, and whether two states of a training lie in one basin.

Source: Foret et al. 2021, arXiv:2010.01412 (sharpness as a rise nearby); Frankle et al. 2020, arXiv:1912.05671
(barriers on the line between two networks); Li et al. 2018, arXiv:1712.09913 (directions scaled to the weights).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from targets.errors import InvalidInput
from toolkit.organism.pseudopod import Pseudopod
from toolkit.organism.torch_compat import organisms_of
from toolkit.rng import torch_generator

__all__ = ["Connection", "Sharpness", "connection", "life_line", "sharpness", "weights_of"]

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """How much the loss rises around weights.

    Args:
        radius: Length of the steps over that of each tensor.
        rises: In the unit of the loss, one for each random direction, the mean of a step forth and back.
    """

    radius: float
    rises: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the rises."""
        return sum(self.rises) / len(self.rises)

    @property
    def worst(self) -> float:
        """The largest rise."""
        return max(self.rises)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The loss on the straight line between two sets of weights.

    Args:
        losses: At even steps from the first to the second, both included.
    """

    losses: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """How far the line rises above the straight line between the losses of its ends; 0 in one convex basin."""
        last = len(self.losses) - 1
        first, end = self.losses[0], self.losses[-1]
        return max(loss - (first + (end - first) * k / last) for k, loss in enumerate(self.losses))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of its parameters by name."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def sharpness(
    model: nn.Module, loss: Callable[[], float], *, radius: float = 0.05, directions: int = 8, seed: int = 0
) -> Sharpness:
    """Step from the weights of `model` in random directions, as far in each tensor as its norm times `radius`.

    The weights are put back to the bit.

    Raises:
        InvalidInput: the radius is not above 0, or there are no directions.
    """
    if radius <= 0 or directions < 1:
        raise InvalidInput(f"{directions} steps of {radius}", hint="a radius above 0, and one direction at least")
    start, here = weights_of(model), loss()
    rises = []
    for number in range(directions):
        step = _direction(start, radius, seed, number)
        both = [_loss_at(model, _moved(start, step, way), loss) for way in (1.0, -1.0)]
        rises.append(sum(both) / 2 - here)
    return Sharpness(radius=radius, rises=tuple(rises))


def connection(model: nn.Module, loss: Callable[[], float], other: Weights, *, points: int = 11) -> Connection:
    """Walk from the weights of `model` to `other` on the straight line. The weights are put back to the bit.

    Raises:
        InvalidInput: `other` holds parameters that `model` lacks, or of other shapes; or fewer than two points.
    """
    start = weights_of(model)
    shapes = {name: value.shape for name, value in start.items()}
    if points < 2 or {name: value.shape for name, value in other.items()} != shapes:
        raise InvalidInput(
            "no line between weights of other names or shapes",
            hint="walk between organisms with life_line, and by 2 points at least",
        )
    way = {name: other[name] - value for name, value in start.items()}
    shares = [k / (points - 1) for k in range(points)]
    return Connection(losses=tuple(_loss_at(model, _moved(start, way, share), loss) for share in shares))


def life_line(
    before: nn.Module, after: nn.Module, loss: Callable[[nn.Module], float], *, points: int = 11
) -> Connection:
    """Walk between two states of one organism, as they were copied: in between, components may have come and gone.

    A component that one side lacks stands in it with the other's weights and its gate at 0. Births and deaths keep the
    function, so both ends of the line are the same networks as before.
    """
    whole, there = copy.deepcopy(before), copy.deepcopy(after)
    ends = (organisms_of(whole), organisms_of(there))
    for mine, theirs in (ends, ends[::-1]):
        for layer, organism in mine.items():
            for pod in list(theirs[layer].pool):
                if pod.component_id not in organism.pool:
                    absent = Pseudopod.from_record(pod.to_record(), kernel=organism.kernel)
                    with torch.no_grad():
                        absent.gate.zero_()
                    organism.pool.max_size += 1
                    organism.pool.add(absent, step=0, reason="absent")
    return connection(whole, lambda: loss(whole), weights_of(there), points=points)


def _direction(start: Weights, radius: float, seed: int, number: int) -> dict[str, Tensor]:
    found = {}
    for name, value in sorted(start.items()):
        drawn = torch.randn(value.shape, generator=torch_generator(seed, "landscape", number, name)).to(value)
        length = drawn.norm()
        found[name] = drawn * (radius * value.norm() / length) if float(length) else drawn
    return found


def _moved(start: Weights, way: Weights, share: float) -> dict[str, Tensor]:
    return {name: value + share * way[name] for name, value in start.items()}


def _loss_at(model: nn.Module, weights: Weights, loss: Callable[[], float]) -> float:
    with _standing_at(model, weights), torch.no_grad():
        return loss()


@contextmanager
def _standing_at(model: nn.Module, weights: Weights) -> Iterator[None]:
    kept = weights_of(model)
    try:
        _put(model, weights)
        yield
    finally:
        _put(model, kept)


def _put(model: nn.Module, weights: Weights) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(weights[name])
