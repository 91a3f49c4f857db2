"""Masks reach their ratio, really apply, and can be baked out without another answer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from targets.errors import InvalidInput
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.pruning_adapter import BakedAdapter, Config, PruningAdapter, bake, build, ratio_at
from toolkit.models.signals import motion

each_mode = pytest.mark.parametrize("mode", ["structured", "unstructured"])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adapter(mode: str, hidden: int = 24, ratio: float = 0.0) -> PruningAdapter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = PruningAdapter(parse(Config, {"mode": mode, "hidden": hidden, "width": 8}))
    made.prune(ratio)
    return made.eval()


@given(ratio=st.floats(0, 0.99), hidden=st.integers(2, 80))
@settings(max_examples=50, deadline=None)
def test_the_ratio_is_reached_within_one_channel(ratio: float, hidden: int) -> None:
    made = adapter("structured", hidden, ratio)
    assert abs(made.pruned - ratio) <= 1 / hidden
    assert 1 <= made.bake().widen.out_features == int(made.mask.sum())


@given(ratio=st.floats(0, 0.99))
@settings(max_examples=20, deadline=None)
def test_the_ratio_is_reached_within_one_weight(ratio: float) -> None:
    made = adapter("unstructured", 24, ratio)
    assert abs(made.pruned - ratio) <= 1 / (2 * 24 * 8)


def test_the_same_weights_are_masked_as_by_torch() -> None:
    made, other = adapter("unstructured", ratio=0.6), adapter("unstructured")
    torch_prune.global_unstructured(
        [(other.widen, "weight"), (other.narrow, "weight")], torch_prune.L1Unstructured, amount=0.6
    )
    assert torch.equal(made.widen_mask, other.widen.weight_mask)
    assert torch.equal(made.narrow_mask, other.narrow.weight_mask)


@each_mode
def test_the_mask_really_applies(mode: str) -> None:
    """What is masked may hold anything."""
    made, x = adapter(mode, ratio=0.5), noise(3, 5, 8)
    before = made(x)
    with torch.no_grad():
        if mode == "structured":
            gone = made.mask == 0
            made.widen.weight[gone], made.widen.bias[gone], made.narrow.weight[:, gone] = 1e3, -7.0, 1e3
        else:
            made.widen.weight[made.widen_mask == 0] = 1e3
            made.narrow.weight[made.narrow_mask == 0] = -1e3
    assert torch.equal(made(x), before)
    assert not torch.equal(made(x), adapter(mode)(x))


@each_mode
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("shape", [(3, 5, 8), (3, 8)])
def test_baked_it_gives_the_same_answers(mode: str, ratio: float, shape: tuple[int, ...]) -> None:
    made, x = adapter(mode, ratio=ratio), noise(*shape)
    baked = made.bake()
    assert isinstance(baked, BakedAdapter)
    torch.testing.assert_close(baked(x), made(x), rtol=1e-6, atol=1e-6)
    assert not list(baked.buffers())
    kept = round(24 - ratio * 24) if mode == "structured" else 24
    assert (baked.widen.out_features, baked.narrow.in_features) == (kept, kept)
    if mode == "unstructured":
        zeros = sum(int((layer.weight == 0).sum()) for layer in (baked.widen, baked.narrow))
        assert zeros == round(ratio * 2 * 24 * 8)


@each_mode
def test_a_network_is_baked_as_a_copy(mode: str) -> None:
    model = build(parse(Config, {"mode": mode, "ratio": 0.75}))
    state = torch.random.get_rng_state()
    baked, signal = bake(model), noise(4, 20, 6)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(baked(signal), model(signal), rtol=1e-6, atol=1e-6)
    assert isinstance(model.get_submodule("block"), PruningAdapter)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (baked, model)]
    assert sizes[1] - sizes[0] == (48 * (2 * 32 + 1) if mode == "structured" else 0)


@each_mode
def test_what_is_masked_has_no_gradient_and_everything_else_has(mode: str) -> None:
    model = build(parse(Config, {"mode": mode, "ratio": 0.5})).train()
    model(noise(8, 20, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    block = model.get_submodule("block")
    assert isinstance(block, PruningAdapter)
    mask = block.mask[:, None].expand(-1, 32) if mode == "structured" else block.widen_mask
    gradient = block.widen.weight.grad
    assert gradient is not None
    assert gradient[mask == 0].abs().max() == 0
    assert gradient[mask == 1].abs().mean() > 0


def test_a_feature_that_grew_is_taken_up_again() -> None:
    made = adapter("structured", ratio=0.5)
    gone = int((made.mask == 0).nonzero()[0])
    with torch.no_grad():
        made.widen.weight[gone] *= 100
    made.prune(0.5)
    assert made.mask[gone] == 1


@pytest.mark.slow
def test_pruning_while_training_reaches_the_ratio_and_the_labels() -> None:
    model = build(parse(Config, {"ratio": 0.0, "hidden": 40})).train()
    block = model.get_submodule("block")
    assert isinstance(block, PruningAdapter)
    made = motion(64, 32, seed=0)
    x, y = torch.from_numpy(made.values / 9.81), torch.from_numpy(made.labels)
    step = torch.optim.Adam(model.parameters(), 1e-2)
    shares = []
    for i in range(120):
        block.prune(ratio_at(i, 60, 0.8))
        shares.append(block.pruned)
        step.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        step.step()
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.8)
    baked = bake(model.eval())
    assert (baked(x).argmax(1) == y).float().mean() >= 0.95
    assert sum(p.numel() for p in baked.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())


def test_the_schedule_is_cubic() -> None:
    assert [ratio_at(i, 4, 0.64) for i in (-1, 0, 1, 2, 4, 9)] == pytest.approx([0, 0, 0.37, 0.56, 0.64, 0.64])


def test_what_cannot_be_pruned_is_refused() -> None:
    for ratio in (-0.1, 1.0, float("nan")):
        with pytest.raises(InvalidInput, match=f"a share of {ratio} cannot be pruned"):
            adapter("structured").prune(ratio)
    with pytest.raises(InvalidInput, match="mode = 'blocks' is not allowed") as caught:
        parse(Config, {"mode": "blocks"})
    assert caught.value.hint == "mode is 'structured' or 'unstructured'"
