"""Channels that go only together: followed through attention, gates, concatenations and norms, refused elsewhere."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from passes.context import Context
from passes.contract import PassFailed
from passes.torch_level.open_attention import OpenAttention, open_attention
from passes.torch_level.prune_channels import PruneChannels
from tests.passes.pruned_programs import PI, macs, noise, program_of, seeded, state_of, unchanged, widths

Make = Callable[..., Any]


# ---- attention


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, packed: bool) -> None:
        super().__init__()
        self.heads, self.packed = heads, packed
        if packed:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        if self.packed:
            q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (f(x).view(n, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, length, -1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, packed: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, packed)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(6, 32), nn.Parameter(torch.randn(1, 7, 32))
        self.block, self.classify = Block(32, 4, packed), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.block(self.embed(x) + self.position).mean(1))


class TorchTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.classify = nn.Linear(6, 32), nn.Linear(32, 5)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.encoder(self.embed(x)).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: Transformer(False), lambda: Transformer(True), TorchTransformer],
                         ids=["q, k, v", "packed", "torch's own"])  # fmt: skip
def test_a_transformer_loses_heads_and_hidden_units(make: Callable[[], nn.Module]) -> None:
    start = program_of(seeded(make), x=noise(1, 7, 6))
    before = state_of(start.model)
    step = PruneChannels(ratio=0.4, global_=False, epochs=0, round_to=8)
    after = step.apply(start, Context(stack=PI))
    step.requires(start, Context(stack=PI))
    assert macs(after) <= 0.7 * macs(start), "the products of attention are no weights, and stay in part"
    opened = program_of(copy.deepcopy(start.model), **start.example)
    open_attention(opened.model)
    assert sum(layer.macs for layer in widths(after).values()) <= 0.6 * sum(x.macs for x in widths(opened).values())
    blocks = [m for m in after.model.modules() if isinstance(m, (Attention, OpenAttention))]
    assert [block.heads for block in blocks] == [2]
    hidden = [
        m.out_features for name, m in after.model.named_modules() if name in ("block.mlp.0", "encoder.layers.0.linear1")
    ]
    assert hidden == [32]
    assert unchanged(start.model, before)
    assert after.run(start.example)["output"].shape == (1, 5)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_taken_apart_answers_the_same(weights: bool, bias: bool, batch_first: bool) -> None:
    whole = nn.ModuleDict({"a": seeded(lambda: nn.MultiheadAttention(24, 3, bias=bias, batch_first=batch_first))})
    parts = copy.deepcopy(whole)
    assert open_attention(parts) == ["a"]
    q, k = torch.from_numpy(noise(4, 4, 24)), torch.from_numpy(noise(4, 4, 24)[::-1].copy())
    causal = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    padding = torch.tensor([[False, False, False, i == 1] for i in range(4)])
    for options in ({}, {"attn_mask": causal}, {"key_padding_mask": padding},
                    {"attn_mask": causal.expand(12, 4, 4), "key_padding_mask": padding}):  # fmt: skip
        want, have = (net["a"](q, k, k, need_weights=weights, **options) for net in (whole, parts))
        torch.testing.assert_close(have[0], want[0])
        torch.testing.assert_close(have[1], want[1])
    want, have = (net["a"](q[0], k[0], k[0], average_attn_weights=False) for net in (whole, parts))
    torch.testing.assert_close(have, want)


# ---- ties


class Ties(nn.Module):
    """A gate over channels, a concatenation, a group norm and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16)
        self.gate, self.join = nn.Conv2d(16, 16, 1), nn.Conv2d(32, 16, 1)
        self.up, self.classify = nn.ConvTranspose2d(16, 8, 2), nn.Linear(8 * 25, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.norm(self.a(x))
        a = a * self.gate(a.mean((2, 3), keepdim=True)).sigmoid()
        return self.classify(self.up(self.join(torch.cat([a, self.b(x)], 1)).relu()).relu().flatten(1))


def test_ties_through_gates_concatenations_norms_and_flattening_are_followed() -> None:
    start = program_of(seeded(Ties), x=noise(1, 3, 6, 6))
    step = PruneChannels(ratio=0.5, global_=False, epochs=0, round_to=4)
    step.requires(start, Context(stack=PI))
    after = step.apply(start, Context(stack=PI))
    assert after.model.norm.num_groups == after.model.norm.num_channels // 4 < 4
    assert after.model.classify.in_features == 25 * after.model.up.out_channels < 200


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.classify = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.a(x)
        return self.classify(self.b(features.relu()).relu().mean((2, 3))), features


def test_features_that_are_an_output_keep_their_width() -> None:
    start = program_of(seeded(Inner), x=noise(1, 3, 6, 6))
    step = PruneChannels(ratio=0.3, epochs=0, round_to=4)
    step.requires(start, Context(stack=PI))
    after = step.apply(start, Context(stack=PI))
    assert after.model.a.out_channels == 16
    assert after.model.b.out_channels < 16


# ---- refusals


class FixedHeads(Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).view(x.shape[0], -1, 4, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.gru, self.classify = nn.Linear(6, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.gru(self.a(x))[0][:, -1])


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.classify = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.c = nn.Linear(16, 16)
        self.c.weight = self.b.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.c(self.b(self.a(x)).relu()).relu())


@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [
        (lambda: nn.Sequential(FixedHeads(32, 4, False), nn.Linear(32, 5)), (1, 7, 32), "tied to the channels"),
        (Recurrent, (1, 7, 6), "cannot follow"),
        (Shared, (1, 6), "shares its weights"),
        (lambda: nn.Linear(6, 5), (1, 6), "an output of the model"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5)), (1, 6), "one step of 4"),
        (lambda: nn.Sequential(nn.ReLU()), (1, 6), "none with weights"),
    ],
    ids=["heads stated as numbers", "recurrent", "shared weights", "only an output", "too narrow", "nothing"],
)  # fmt: skip
def test_a_network_that_cannot_be_followed_is_refused(make: Make, shape: Any, words: str) -> None:
    start = program_of(seeded(make), x=noise(*shape))
    before = state_of(start.model)
    with pytest.raises(PassFailed, match=words) as refusal:
        PruneChannels(ratio=0.5, epochs=0, round_to=4)(start, Context(stack=PI))
    assert refusal.value.hint
    assert unchanged(start.model, before)
