"""What the blueprints around one classifier share: their data, both shapes of input, and that they learn."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from targets.errors import InvalidInput
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.motion_classifier import (
    MotionClassifier,
    MotionConfig,
    calibration,
    check_sequence,
    training,
    validation,
)

NAMES = (
    "dynamic_computation", "fused_linear", "memory_efficient", "multi_scale_attention", "pruning_adapter",
    "quant_adapter", "sparse_activation",
)  # fmt: skip
each = pytest.mark.parametrize("name", NAMES)


def module(name: str) -> Any:
    return import_module(f"toolkit.models.blueprints.{name}")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def arrays(data: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.concatenate([s["signal"] for s in data])), torch.from_numpy(data.labels)


@each
@torch.no_grad()
def test_a_reading_is_answered_like_a_signal_of_one(name: str) -> None:
    model, x = module(name).build(), noise(9, 6)
    found = model(x)
    assert found.shape == (9, 4)
    torch.testing.assert_close(found, model(x[:, None]), rtol=1e-5, atol=1e-6)


@each
@torch.no_grad()
def test_any_length_and_batch_are_taken(name: str) -> None:
    model = module(name).build()
    for shape in ((1, 1, 6), (3, 50, 6), (2, 129, 6)):
        assert model(noise(*shape)).isfinite().all()


@each
@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 7), (6,), (1, 2, 3, 6)])
def test_another_shape_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"an input is \(batch, length, 6\) or \(batch, 6\), this one is"):
        module(name).build()(noise(*shape))


@each
def test_a_block_stands_by_itself(name: str) -> None:
    """Other networks may hold it: it maps (B, L, W) to itself and leaves everything else to them."""
    block = module(name).build(parse(module(name).Config, {"width": 16})).get_submodule("block")
    for shape in ((2, 7, 16), (5, 16)):
        assert block(noise(*shape)).shape == shape
    with pytest.raises(InvalidInput, match=r"\(batch, length, 16\)"):
        block(noise(2, 7, 12))


@each
@pytest.mark.slow
def test_it_learns_the_kinds_of_motion(name: str) -> None:
    """From 256 signals; asked about those of another seed."""
    config = parse(module(name).Config, {"samples": 32})
    model = module(name).build(config).train()
    x, y = arrays(training(config).take(256))
    step = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for i in range(120):
            rows = torch.arange(i * 32, i * 32 + 32) % 256
            step.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            step.step()
    asked, truth = arrays(validation(config))
    with torch.no_grad():
        right = float((model.eval()(asked).argmax(1) == truth).float().mean())
    print(f"{name}: {right:.3f} of 256 held-out signals right")
    assert right >= 0.95


def test_units_are_those_that_are_stated() -> None:
    values, _ = arrays(calibration())
    assert len(values) == 64
    still = values[::4]  # standing: gravity on the third axis, nothing turns
    assert still[:, :, 2].mean() == pytest.approx(1.0, abs=0.05)
    assert still[:, :, 3:].abs().mean() < 0.3


def test_training_and_validation_do_not_meet() -> None:
    seen = {s["signal"].tobytes() for s in training()}
    assert len(seen) == 512
    assert seen.isdisjoint(s["signal"].tobytes() for s in validation())


def test_a_config_out_of_range_is_refused() -> None:
    for fields in ({"samples": 0}, {"width": 6}, {"width": 2048}):
        (name,) = fields
        with pytest.raises(InvalidInput, match=f"{name} = "):
            parse(MotionConfig, fields)
    with pytest.raises(InvalidInput, match=r"this one is \(3,\)"):
        check_sequence(torch.zeros(3), 3)
    with pytest.raises(InvalidInput, match=r"this one is \(2, 5\)"):
        MotionClassifier(8, nn.Identity())(torch.zeros(2, 5))
