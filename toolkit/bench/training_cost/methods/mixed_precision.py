"""Products in 16 bits on a GPU, weights and their updates in 32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from toolkit.bench.characters import CharacterModel
from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.language import CHARACTERS, Size, learn_language
from toolkit.bench.training_cost.metering import Meter
from toolkit.training.precision import Kind

__all__ = ["ABLATION", "transformer"]


def transformer(size: Size) -> CharacterModel:
    """The character model of `toolkit.bench.characters` in another size."""
    return CharacterModel(CHARACTERS, context=size.context, width=size.width, heads=size.heads, blocks=size.blocks)


@contextmanager
def _products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _arm(kind: Kind, products: str = "highest") -> Arm:
    def run(seed: int, meter: Meter) -> None:
        with _products(products):
            learn_language(transformer, seed, meter, kind=kind)

    return run


ABLATION = Ablation(
    name="mixed_precision",
    factor="kernels",
    task="characters of Python's help, 19 M parameters, nats",
    arms={"float32": _arm("float32"), "bfloat16": _arm("bfloat16"), "float16": _arm("float16"),
          "tf32": _arm("float32", "high")},
    headline="bfloat16",
    cost="time_s",
    costs=("time_s",),
    margin=0.01,
    devices=("cuda",),
)  # fmt: skip
