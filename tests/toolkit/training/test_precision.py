"""16 bits: what a device gets, and that float16's scale is found, kept over an interruption, and never hides a loss."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from toolkit.training.precision import Precision, kind_for

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "asked", "got"),
    [
        ("cpu", True, "bfloat16", "float32"),
        ("cuda", True, "bfloat16", "bfloat16"),
        ("cuda", False, "bfloat16", "float16"),
        ("cuda", True, "float16", "float16"),
        ("cuda", False, "float32", "float32"),
    ],
)
def test_what_a_device_gets(
    device: str, has_bfloat16: bool, asked: str, got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bfloat16)
    assert kind_for(SimpleNamespace(type=device), asked) == got  # type: ignore[arg-type]


def _learn(precision: Precision, model: nn.Module, optimizer: torch.optim.Optimizer, factor: float = 1.0) -> float:
    x = torch.linspace(-1, 1, 64)[:, None]
    with precision.computing():
        loss = (model(x).float() - 3 * x).square().mean() * factor
    optimizer.zero_grad()
    precision.backward(loss)
    norm = precision.clipped(optimizer, model, 1e9)
    precision.step(optimizer, norm)
    return float(loss.detach())


def _model() -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(1, 1)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_every_kind_learns(kind: str) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    precision = Precision(CPU, kind)  # type: ignore[arg-type]
    losses = [_learn(precision, model, optimizer) for _ in range(60)]
    assert losses[-1] < 1e-3 < losses[0]
    assert model.weight.dtype == torch.float32


def test_gradients_that_would_vanish_in_float16_do_not() -> None:
    """A loss of 1e-6 times its usual size: unscaled, float16's gradient of the product is nought."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), 3e6)
    precision = Precision(CPU, "float16")
    start = _learn(precision, model, optimizer, 1e-7)
    for _ in range(30):
        last = _learn(precision, model, optimizer, 1e-7)
    assert last < start / 2


def test_an_overflow_leaves_a_step_out_and_halves_the_scale() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    precision = Precision(CPU, "float16")
    before = model.weight.detach().clone()
    scale = precision.state()["scale"]
    _learn(precision, model, optimizer, 1e5)
    assert torch.equal(model.weight, before)
    assert precision.state()["scale"] == scale / 2
    again = Precision(CPU, "float16")
    again.load(precision.state())
    assert again.state() == precision.state()


def test_a_loss_that_is_lost_is_no_matter_of_scale() -> None:
    """NaN: after as many halvings as there are, training is told to stop; without a scale, at once."""
    for kind, tries in (("float32", 1), ("float16", 31)):
        model = _model()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        precision = Precision(CPU, kind)  # type: ignore[arg-type]
        went_on = 0
        for _ in range(40):
            optimizer.zero_grad()
            precision.backward(model(torch.full((1, 1), float("nan"))).sum())
            if not precision.step(optimizer, precision.clipped(optimizer, model, 1.0)):
                break
            went_on += 1
        assert went_on == tries - 1
        assert bool(torch.isfinite(model.weight).all())
