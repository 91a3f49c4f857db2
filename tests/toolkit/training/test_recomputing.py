"""Gradient checkpointing: the same bits with norms and dropout, fewer held values, and a model left as it was."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import Dataset
from toolkit.bench.characters import CharacterModel
from toolkit.models.digits import DigitsNet
from toolkit.training.recomputing import blocks, recomputing
from toolkit.training.settings import Settings
from toolkit.training.trainer import Trainer


def _flat() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2)]
    return nn.Sequential(*layers)


class _Apart(nn.Module):
    """No list and no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = DigitsNet(), nn.Linear(10, 16)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(self.first(x))
        return found


def _transformer() -> nn.Module:
    return CharacterModel(7, context=12, width=16, heads=2, blocks=3)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "chain of layers": (_flat, lambda: torch.randn(9, 16)),
    "digits": (DigitsNet, lambda: torch.randn(5, 1, 8, 8)),
    "transformer": (_transformer, lambda: torch.arange(24).reshape(2, 12) % 7),
    "children": (_Apart, lambda: torch.randn(5, 1, 8, 8)),
}


def _made(name: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CASES[name][0]().train(), CASES[name][1]()


def _step(name: str, wanted: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Gradients, buffers, and bytes that the graph holds after the forward pass beside parameters."""
    model, x = _made(name)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.random.fork_rng(devices=[]), recomputing(model, wanted=wanted):
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = model(x)
        y.square().mean().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return gradients, dict(model.named_buffers()), sum(held.values())


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_running_means_are_bit_equal(name: str) -> None:
    plain, again = _step(name, wanted=False), _step(name, wanted=True)
    assert plain[0].keys() == again[0].keys()
    for kind in (0, 1):
        for key, value in plain[kind].items():  # type: ignore[union-attr]
            assert torch.equal(value, again[kind][key]), key  # type: ignore[index]
    assert again[2] < plain[2] / 2


def test_the_model_is_left_as_it_was() -> None:
    for name in CASES:
        model, x = _made(name)
        with pytest.raises(RuntimeError, match="on purpose"), recomputing(model, wanted=True):
            raise RuntimeError("on purpose")
        assert not any("forward" in vars(module) for module in model.modules())
        with torch.no_grad(), recomputing(model.eval(), wanted=True):
            inside = model(x)
        with torch.no_grad():
            assert torch.equal(model(x), inside)


def test_blocks_are_members_of_lists_and_chains() -> None:
    model = CharacterModel(7, context=12, width=16, heads=2, blocks=3)
    assert blocks(model) == list(model.blocks)
    digits = DigitsNet()
    assert digits.stem in blocks(digits)


def test_a_training_gives_the_same_weights() -> None:
    x = np.random.default_rng(0).standard_normal((48, 16)).astype(np.float32)
    data = Dataset.of_arrays("points", {"x": x}, np.arange(48) % 16)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, labels = batch
        assert labels is not None
        return nn.functional.cross_entropy(model(inputs["x"]), labels)

    found = []
    for wanted in (False, True):
        settings = Settings(batch=16, patience=0, held_out=0.0, recompute=wanted)
        found.append(
            Trainer(data=data, settings=settings)(_made("chain of layers")[0], loss, step="r", epochs=2, rate=0.01)
        )
    for (name, a), b in zip(found[0].state_dict().items(), found[1].state_dict().values(), strict=True):
        assert torch.equal(a, b), name
