"""Which samples to have labelled next: by what a model is unsure of, by what its members disagree on, by coverage.

A strategy is given the model that the labels so far have made, and chooses from the samples without a label. `rounds`
is the loop around it: train, ask, train again.

Sources: Shannon entropy and margin as in Settles 2009, Computer Sciences Technical Report 1648; BALD: Houlsby et al.
2011, arXiv:1112.5745, by dropout: Gal, Islam and Ghahramani 2017, arXiv:1703.02910; core-set (greedy k-center): Sener
and Savarese 2018, arXiv:1708.00489.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from passes.dataset import Array
from targets.errors import InvalidInput, UnknownName

__all__ = [
    "STRATEGIES", "Round", "Strategy", "bald", "core_set", "entropy", "features", "margin", "predicted", "rounds",
    "strategy",
]  # fmt: skip

Strategy = Callable[[nn.Module, Tensor, Tensor, int, np.random.Generator], Array]
"""From the model, (n, ...) samples without and (m, ...) samples with a label, and a count, to (count,) of the n."""

_MEMBERS, _CHUNK = 20, 512


@dataclass(frozen=True)
class Round:
    """What was labelled, in the order of asking, and the model that it made."""

    labelled: Array
    model: nn.Module


def rounds(
    samples: Tensor,
    train: Callable[[Array], nn.Module],
    strategy: Strategy,
    *,
    first: int,
    step: int,
    most: int,
    rng: np.random.Generator,
) -> Iterator[Round]:
    """Train on a growing part of a pool: `first` samples at random, then `step` more each time as `strategy` chooses.

    Args:
        samples: (n, ...) the pool.
        train: From the numbers of the labelled samples to a model in eval mode.
        most: Labels after which nothing more is asked.

    Raises:
        InvalidInput: the numbers mean nothing, or a strategy chose the same sample twice.
    """
    count = len(samples)
    if not 1 <= first <= min(most, count) or step < 1:
        raise InvalidInput(
            f"{first} labels, then {step} more up to {most} of {count}, is no way to ask",
            hint="first from 1 to most and to the pool's size, step from 1",
        )
    labelled = rng.permutation(count)[:first]
    while True:
        model = train(labelled)
        yield Round(labelled, model)
        waiting = np.setdiff1d(np.arange(count), labelled)
        wanted = min(step, most - len(labelled), len(waiting))
        if wanted <= 0:
            return
        chosen = strategy(model, samples[torch.from_numpy(waiting)], samples[torch.from_numpy(labelled)], wanted, rng)
        if len(np.unique(chosen)) != wanted:
            raise InvalidInput(
                f"the strategy chose {len(np.unique(chosen))} samples where {wanted} were asked for",
                hint="let it return as many different numbers as it is asked for",
            )
        labelled = np.concatenate([labelled, waiting[chosen]])


# ---- how much is learned from a sample


def entropy(probabilities: Array) -> Array:
    """(n,) entropy in nats of (n, classes) probabilities."""
    found: Array = -(probabilities * _log(probabilities)).sum(axis=-1)
    return found


def margin(probabilities: Array) -> Array:
    """(n,) one less the distance of the two most likely of (n, classes) probabilities: 1 where they are equal."""
    top = np.partition(probabilities, -2, axis=-1)[..., -2:]
    found: Array = 1 - (top[..., 1] - top[..., 0])
    return found


def bald(probabilities: Array) -> Array:
    """(n,) mutual information in nats between the class and the member, of (members, n, classes) probabilities: what
    the members are sure of and disagree about. 0 where they agree, however unsure they are."""
    found: Array = entropy(probabilities.mean(axis=0)) - entropy(probabilities).mean(axis=0)
    return found


def core_set(waiting: Array, labelled: Array, count: int) -> Array:
    """(count,) numbers of the (n, width) `waiting` features, each the farthest from all that is chosen or labelled
    when it is chosen: at most twice as far from everything as the best choice of as many.

    Raises:
        InvalidInput: there are fewer than `count`.
    """
    if count > len(waiting):
        raise InvalidInput(f"{count} of {len(waiting)} samples cannot be chosen", hint="ask for fewer")
    squares = np.square(waiting).sum(axis=1)
    nearest = np.full(len(waiting), np.inf)
    for center in labelled:
        nearest = np.minimum(nearest, squares - 2 * waiting @ center + center @ center)
    chosen: list[int] = []
    for _ in range(count):
        farthest = int(nearest.argmax())
        chosen.append(farthest)
        center = waiting[farthest]
        nearest = np.minimum(nearest, squares - 2 * waiting @ center + center @ center)
        nearest[farthest] = -np.inf
    return np.array(chosen)


def _log(probabilities: Array) -> Array:
    found: Array = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return found


# ---- strategies


def _random(_model: nn.Module, waiting: Tensor, _labelled: Tensor, count: int, rng: np.random.Generator) -> Array:
    return rng.permutation(len(waiting))[:count]


def _by(score: Callable[[Array], Array]) -> Strategy:
    def choose(model: nn.Module, waiting: Tensor, _l: Tensor, count: int, _rng: np.random.Generator) -> Array:
        return _largest(score(predicted(model, waiting)), count)

    return choose


def _bald(model: nn.Module, waiting: Tensor, _l: Tensor, count: int, rng: np.random.Generator) -> Array:
    with _dropping(model, int(rng.integers(2**62))):
        members = np.stack([predicted(model, waiting) for _ in range(_MEMBERS)])
    return _largest(bald(members), count)


def _core_set(model: nn.Module, waiting: Tensor, labelled: Tensor, count: int, _rng: np.random.Generator) -> Array:
    return core_set(features(model, waiting), features(model, labelled), count)


STRATEGIES: Mapping[str, Strategy] = {
    "random": _random,
    "entropy": _by(entropy),
    "margin": _by(margin),
    "bald": _bald,
    "core_set": _core_set,
}


def strategy(name: str) -> Strategy:
    """The strategy called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in STRATEGIES:
        raise UnknownName("strategy", name, STRATEGIES)
    return STRATEGIES[name]


def _largest(scores: Array, count: int) -> Array:
    return np.argsort(-scores, kind="stable")[:count]


# ---- what a model says


def predicted(model: nn.Module, samples: Tensor) -> Array:
    """(n, classes) float64 probabilities of (n, ...) samples, in the modes that the model's parts are in."""
    with torch.no_grad():
        parts = [model(chunk).double().softmax(dim=-1) for chunk in torch.split(samples, _CHUNK)]
    found: Array = torch.cat(parts).cpu().numpy()
    return found


def features(model: nn.Module, samples: Tensor) -> Array:
    """(n, width) float64: what the model's last linear layer is given.

    Raises:
        InvalidInput: the model has no linear layer.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InvalidInput("the model has no linear layer whose inputs could stand for its samples",
                           hint="use entropy, margin or bald")  # fmt: skip
    held: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _module, args: held.append(args[0].detach().double().flatten(1)))
    try:
        with torch.no_grad():
            for chunk in torch.split(samples, _CHUNK):
                model(chunk)
    finally:
        hook.remove()
    found: Array = torch.cat(held).cpu().numpy()
    return found


@contextmanager
def _dropping(model: nn.Module, seed: int) -> Iterator[None]:
    """A block in which dropout drops, and nothing else trains; torch's generators are put back."""
    layers = [module for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    if not any(layer.p > 0 for layer in layers):
        raise InvalidInput("the model has no dropout, so its members all agree", hint="use entropy, margin or core_set")
    before = [layer.training for layer in layers]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer, was in zip(layers, before, strict=True):
                layer.train(was)
