"""The same gradients bit for bit, for fewer bytes held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from targets.errors import InvalidInput
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.memory_efficient import Checkpointed, Config, FeedForward, build, peak_bytes

STAGES = 8


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stages(**fields: object) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = parse(Config, {"width": 16, "hidden": 64, "dropout": 0.3, **fields})
        return [FeedForward(config).train() for _ in range(STAGES)]


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model(x).square().sum().backward()
    return [t.grad.clone() for t in (x, *model.parameters()) if t.grad is not None]


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Storages held for the backward pass when the forward pass is over, weights apart."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            held[t.untyped_storage().data_ptr()] = t
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        model(x.clone().requires_grad_())
    return sum(t.untyped_storage().nbytes() for t in held.values())


@pytest.mark.parametrize("group", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(4, 9, 16), (4, 16)])
def test_gradients_are_the_same_bit_for_bit(group: int, dropout: float, shape: tuple[int, ...]) -> None:
    parts = stages(dropout=dropout)
    plain, checkpointed = (
        gradients(nn.Sequential(*parts), noise(*shape)),
        gradients(Checkpointed(parts, group), noise(*shape)),
    )
    assert len(plain) == len(checkpointed) == 1 + 6 * STAGES
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))


def test_what_is_saved_are_the_inputs_of_the_groups() -> None:
    parts, x = stages(), noise(4, 50, 16)
    whole = saved_bytes(nn.Sequential(*parts), x)
    one = x.numel() * x.element_size()
    for group, inputs in ((1, 8), (2, 4), (3, 3), (8, 1)):
        assert saved_bytes(Checkpointed(parts, group), x) == inputs * one
    assert whole > 10 * saved_bytes(Checkpointed(parts, 1), x)


@pytest.mark.slow
def test_the_peak_falls() -> None:
    parts, x = stages(), noise(64, 50, 16)
    plain = peak_bytes(lambda: gradients(nn.Sequential(*parts), x))
    by_group = {group: peak_bytes(lambda g=group: gradients(Checkpointed(parts, g), x)) for group in (1, 2, 4, 8)}
    print(f"peak of {STAGES} stages: {plain:,} bytes held whole, {by_group} by group")
    assert min(by_group.values()) < 0.4 * plain
    assert by_group[8] > by_group[2], "all in one group is forgotten and computed anew as a whole"


def test_bytes_are_counted_as_they_are() -> None:
    """Of tensors whose sizes and lives are known."""

    def run() -> None:
        first = torch.zeros(1000)  # 4,000
        second = first + 1  # 8,000
        del first  # 4,000
        view = second[10:].reshape(-1, 3)  # no storage of its own
        view.mul_(2)
        torch.ones(500, dtype=torch.float64)  # 8,000, and gone

    assert peak_bytes(run) == 8000
    kept: list[Tensor] = []
    assert peak_bytes(lambda: kept.extend(torch.zeros(250) for _ in range(5))) == 5000
    held = torch.zeros(10**6)
    assert peak_bytes(lambda: held.add_(1)) == 0, "what was there before does not count"


@pytest.mark.parametrize("run", [lambda m, x: m(x), lambda m, x: torch.jit.trace(m, x, check_trace=False)(x)])
def test_without_gradients_it_is_a_plain_sequence(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("checkpointed")

    monkeypatch.setattr("toolkit.models.blueprints.memory_efficient.checkpoint", refuse)
    parts, x = stages(), noise(2, 5, 16)
    model = Checkpointed(parts, 2).eval()
    with torch.no_grad():
        assert torch.equal(run(model, x), nn.Sequential(*parts).eval()(x))
    with pytest.raises(AssertionError, match="checkpointed"):
        model(x)


def test_gradients_reach_every_parameter() -> None:
    model = build().train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model(noise(4, 20, 6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_other_networks_can_be_wrapped() -> None:
    conv = [nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU()) for _ in range(4)]
    x = noise(2, 4, 11)
    plain = gradients(nn.Sequential(*conv).eval(), x)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(Checkpointed(conv, 2).eval(), x), strict=True))


def test_no_stages_are_refused() -> None:
    with pytest.raises(InvalidInput, match="0 stages in groups of 1 are no stack"):
        Checkpointed([])
    with pytest.raises(InvalidInput, match="1 stages in groups of 0 are no stack"):
        Checkpointed([nn.Identity()], 0)
    with pytest.raises(InvalidInput, match=r"dropout = 1\.0 is not allowed"):
        parse(Config, {"dropout": 1.0})
