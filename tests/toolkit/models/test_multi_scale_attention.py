"""Linear in the length, each scale what it says, and no sample ever meets another."""

from __future__ import annotations

from itertools import pairwise
from math import log

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from targets.errors import InvalidInput
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.masked_softmax import masked_softmax
from toolkit.models.blueprints.multi_scale_attention import Config, MultiScaleAttention, build
from toolkit.models.blueprints.written_norm import WrittenNorm


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(**fields: object) -> MultiScaleAttention:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MultiScaleAttention(
            parse(Config, {"width": 8, "heads": 2, "window": 4, "stride": 3, "global_tokens": 5, **fields})
        ).eval()


def by_hand(module: MultiScaleAttention, x: Tensor) -> Tensor:
    """One position, head and scale at a time, by sets of neighbours, with torch's own attention and layer norm."""
    c = module.config
    batch, length, width = x.shape
    normed = nn.functional.layer_norm(x, (width,), module.norm.weight, module.norm.bias)
    q, k, v = module.project(normed).chunk(3, dim=-1)
    shares = module.mix(normed).softmax(-1)
    part = -(-length // c.global_tokens)
    block = min(c.window, -(-length // c.stride)) * c.stride
    mixed = torch.zeros_like(x)
    size = width // c.heads
    for b in range(batch):
        for head in range(c.heads):
            of = slice(head * size, (head + 1) * size)
            keys, values = k[b, :, of], v[b, :, of]
            means = [torch.stack([t[i : i + part].mean(0) for i in range(0, length, part)]) for t in (keys, values)]
            for i in range(length):
                near = [j for j in range(length) if j // c.window == i // c.window]
                far = [j for j in range(length) if j // block == i // block and j % c.stride == i % c.stride]
                seen = ((keys[near], values[near]), (keys[far], values[far]), (means[0], means[1]))
                for scale, (some_keys, some_values) in enumerate(seen):
                    found = nn.functional.scaled_dot_product_attention(q[b, i : i + 1, of], some_keys, some_values)
                    mixed[b, i, of] += shares[b, i, scale] * found[0]
    return x + module.out(mixed)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 11, 12, 13, 24, 25])
def test_it_is_what_it_says_for_any_length(length: int) -> None:
    module, x = layer(), noise(2, length, 8)
    with torch.no_grad():
        torch.testing.assert_close(module(x), by_hand(module, x), rtol=1e-5, atol=1e-5)


def test_the_cost_grows_linearly_from_1k_to_16k() -> None:
    module = build(parse(Config, {"samples": 16_384}))
    flops = []
    for length in (1_024, 4_096, 16_384):
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            module(torch.zeros(1, length, 6))
        flops.append(counted.get_total_flops())
    exponents = [log(b / a) / log(4) for a, b in pairwise(flops)]
    assert max(exponents) <= 1.01, exponents
    assert flops[-1] < 16_384 * 2 * 32 * (3 * 32 + 3 + 32 + 2 * (16 + 16 + 16) + 10) * 1.05


def test_full_attention_is_found_quadratic_by_the_same_count() -> None:
    """The count would see it."""
    flops = []
    for length in (1_024, 4_096):
        x = torch.zeros(1, length, 8)
        with FlopCounterMode(display=False) as counted:
            (x @ x.transpose(1, 2)).softmax(-1) @ x
        flops.append(counted.get_total_flops())
    assert log(flops[1] / flops[0]) / log(4) == pytest.approx(2)


@pytest.mark.parametrize("length", [16, 17])
def test_a_sample_is_independent_of_the_others(length: int) -> None:
    module, x = layer(), noise(4, length, 8).requires_grad_()
    module(x)[1].square().sum().backward()
    assert x.grad is not None
    assert [bool(g.any()) for g in x.grad] == [False, True, False, False]
    other = x.detach().clone()
    other[[0, 2, 3]] = float("nan")
    with torch.no_grad():
        assert torch.equal(module(other)[1], module(x)[1])


def test_the_far_end_is_seen() -> None:
    module, x = layer(), noise(1, 200, 8).requires_grad_()
    module(x)[0, 0].sum().backward()
    assert x.grad is not None
    assert x.grad[0, -1].abs().max() > 0, "through the means"


def test_a_single_position_stands_for_a_sequence_of_one() -> None:
    module, x = layer(), noise(5, 8)
    assert torch.equal(module(x), module(x[:, None])[:, 0])


def test_gradients_reach_every_parameter() -> None:
    model = build().train()
    model(noise(3, 50, 6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_wrong_shape_or_config_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"this one is \(2, 3, 7\)"):
        layer()(noise(2, 3, 7))
    with pytest.raises(InvalidInput, match="5 heads do not divide a width of 32"):
        parse(Config, {"heads": 5})


# ---- what it stands on


def test_masked_softmax_is_the_softmax_of_what_counts() -> None:
    scores = noise(6, 9) * 5
    keep = (noise(6, 9, seed=1) > 0).float()
    keep[:, 0] = 1
    wanted = torch.softmax(scores.masked_fill(keep == 0, -torch.inf), dim=-1)
    found = masked_softmax(scores, keep)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(found == 0, keep == 0)
    assert masked_softmax(scores.half(), keep).dtype == torch.float16


@pytest.mark.parametrize("level", [-1000.0, -200.0, 0.0, 200.0, 1000.0])
def test_masked_softmax_knows_scores_by_their_differences_alone(level: float) -> None:
    """Powers of scores 104 below the greatest are zero in float32: it has to be one that counts."""
    scores = noise(6, 9)
    keep = (noise(6, 9, seed=1) > 0).float()
    keep[:, 0] = 1
    moved = torch.where(keep == 1, scores.double() + level, 0.0)
    wanted = torch.softmax(moved.masked_fill(keep == 0, -torch.inf), dim=-1).float()
    # scores near 1000 are rounded by 3e-5, and so are the logarithms of weights
    torch.testing.assert_close(masked_softmax(moved.float(), keep), wanted, rtol=2e-4, atol=1e-6)


def test_large_scores_stay_finite_where_the_last_part_is_filled_up() -> None:
    module = build(Config()).get_submodule("block")
    assert isinstance(module, MultiScaleAttention)
    with torch.no_grad():
        module.project.weight[: 2 * Config().width] *= 60
        assert module(noise(2, 50, Config().width)).isfinite().all()


def test_written_norm_is_layer_norm() -> None:
    written, torchs = WrittenNorm(16).double(), nn.LayerNorm(16).double()
    with torch.no_grad():
        written.weight.copy_(noise(16))
        written.bias.copy_(noise(16, seed=1))
    torchs.load_state_dict(written.state_dict())
    x = (noise(5, 7, 16) * 30 + 100).double()
    torch.testing.assert_close(written(x), torchs(x), rtol=1e-9, atol=1e-9)
    assert written.float()(x.half() * 100).isfinite().all(), "squares are not taken in half precision"
