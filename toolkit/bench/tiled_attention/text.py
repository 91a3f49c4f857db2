"""A language model of characters on Python's own documentation: trained dense, deployed with fewer and fewer tiles.

What tiles cost is the loss on documents that were kept apart, less the dense loss of the same network on the same
windows; its interval is of the bootstrap over these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.nn.functional import cross_entropy

from passes.dataset import Array, Dataset
from toolkit.bench import characters
from toolkit.bench.tiled_attention.learning import Device, deployed, logits, trained
from toolkit.models import geometric, transformer
from toolkit.rng import numpy_generator

__all__ = ["SIZES", "Read", "Size", "text"]

_DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is trained: a network on windows of `context` characters."""

    context: int
    tile: int
    width: int
    blocks: int
    heads: int
    batch: int
    epochs: int
    rate: float


SIZES: Mapping[Device, Size] = {
    "cpu": Size(context=256, tile=16, width=64, blocks=2, heads=4, batch=8, epochs=4, rate=3e-3),
    "cuda": Size(context=1024, tile=32, width=256, blocks=4, heads=8, batch=4, epochs=14, rate=1e-3),
}
"""By device; a thread of a CPU trains a network of the first in less than four minutes."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """One network with some tiles.

    Args:
        refine, tiles: R of T; 0 of T where attention is dense.
        tiles_are: "chosen" by the input, all or but "the one before", or the most "recent" ones.
        loss: Nats a character.
        worse: `loss` less that of the same network, dense, with the 95 % interval of the bootstrap.
        characters: That were asked for.
    """

    score: str
    refine: int
    tiles: int
    tiles_are: str
    loss: float
    perplexity: float
    worse: float
    worse_interval: tuple[float, float]
    characters: int
    parameters: int
    seed: int


def text(scores: Sequence[str], *, device: Device = "cpu", size: Size | None = None, seed: int = 0) -> Iterator[Read]:
    """A transformer, and each score dense and with 1, 2, 4 ... tiles.

    Args:
        size: By the device where None.
    """
    size = size or SIZES[device]
    data, judge, asked = (
        characters.windows(part, context=size.context) for part in ("training", "validation", "asked")
    )
    tiles = size.context // size.tile
    sizes = {"vocabulary": len(characters.ALPHABET), "context": size.context, "width": size.width,
             "hidden": 4 * size.width, "blocks": size.blocks, "heads": size.heads, "seed": seed}  # fmt: skip

    def learned(model: nn.Module, name: str) -> nn.Module:
        return trained(model, data, f"characters {name}", seed=seed, batch=size.batch, epochs=size.epochs,
                       rate=size.rate, validation=judge, device=device)  # fmt: skip

    def row(score: str, network: nn.Module, losses: Array, base: Array, refine: int, tiles_are: str) -> Read:
        return Read(score=score, refine=refine, tiles=tiles, tiles_are=tiles_are, loss=float(losses.mean()),
                    perplexity=float(np.exp(losses.mean())), worse=float((losses - base).mean()),
                    worse_interval=_interval(losses - base), characters=losses.size * size.context,
                    parameters=sum(p.numel() for p in network.parameters()), seed=seed)  # fmt: skip

    network = learned(transformer.build(transformer.Config.model_validate(sizes)), "sdpa")
    losses = _losses(network, asked, device)
    yield row("sdpa", network, losses, losses, 0, "")
    for score in scores:
        config = geometric.Config.model_validate(
            sizes | {"tile": size.tile, "state_width": size.width // size.heads, "score": score, "plan": "dense"}
        )
        network = learned(geometric.build(config), score)
        dense = _losses(network, asked, device)
        yield row(score, network, dense, dense, 0, "")
        if score == "born":
            continue
        for refine in (2**i for i in range(tiles.bit_length())):
            for tiles_are, near in {"chosen": 0, "chosen, the one before": 1, "recent": refine - 1}.items():
                tiled = deployed(network, config, refine, near=near)
                yield row(score, network, _losses(tiled, asked, device), dense, refine, tiles_are)


def _losses(network: nn.Module, data: Dataset, device: Device) -> Array:
    """Mean cross entropy of each window, nats."""
    found, labels = logits(network, data, device)
    each = cross_entropy(found.flatten(0, 1).double(), labels.flatten(), reduction="none")
    return each.reshape(labels.shape).mean(1).numpy()


def _interval(differences: Array) -> tuple[float, float]:
    """95 % of the mean, by the bootstrap over windows."""
    draw = numpy_generator(0, "windows")
    means = draw.choice(differences, (_DRAWS, len(differences))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
