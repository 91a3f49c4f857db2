"""In the place of nn.TransformerEncoder, held against it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit.organism.errors import LifecycleError, ShapeError
from toolkit.organism.organism import Organism
from toolkit.organism.torch_compat import Lifecycle, SlimeMoldEncoder, organisms_of

D, H, F, S, B = 32, 4, 48, 9, 3


def pair(*, norm: bool = False, **options: Any) -> tuple[nn.TransformerEncoder, SlimeMoldEncoder]:
    layer = nn.TransformerEncoderLayer(D, H, F, **{"batch_first": True, **options})
    theirs = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(D) if norm else None, enable_nested_tensor=False)
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and norms too, or a forgotten one would not show
            parameter.add_(0.1 * torch.randn_like(parameter))
    return theirs.eval(), SlimeMoldEncoder.from_encoder(theirs.eval())


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu"}, {"bias": False}, {"norm": True},
                                     {"layer_norm_eps": 1e-3}, {"batch_first": False}])  # fmt: skip
def test_it_answers_as_torch_does(options: dict[str, Any]) -> None:
    theirs, ours = pair(**options)
    x = torch.randn(B, S, D) if options.get("batch_first", True) else torch.randn(S, B, D)
    assert gap(ours(x), theirs(x)) < 1e-5
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) + 2 * H  # gates


def test_masks_mean_what_they_mean_in_torch() -> None:
    theirs, ours = pair()
    x = torch.randn(B, S, D)
    future = nn.Transformer.generate_square_subsequent_mask(S)
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[1, 6:] = True
    numbers = torch.zeros(B, S).masked_fill(padding, -torch.inf)
    soft = torch.randn(S, S)
    seen = ~padding
    for arguments in (
        {"mask": future, "is_causal": True}, {"mask": future}, {"mask": future.isinf()}, {"mask": soft},
        {"src_key_padding_mask": padding}, {"mask": future.isinf(), "src_key_padding_mask": padding},
        {"mask": future, "src_key_padding_mask": numbers}, {"src_key_padding_mask": numbers},
    ):  # fmt: skip
        assert gap(ours(x, **arguments)[seen], theirs(x, **arguments)[seen]) < 1e-5, list(arguments)
    bool_and_numbers = ours(x, mask=future.isinf(), src_key_padding_mask=numbers)
    assert gap(bool_and_numbers, ours(x, mask=future, src_key_padding_mask=padding)) < 1e-5
    assert gap(ours(x, is_causal=True), theirs(x, mask=future, is_causal=True)) < 1e-5
    assert torch.equal(ours(x, mask=soft, is_causal=True), ours(x, is_causal=True))  # the mask is not looked at


def test_one_sequence_needs_no_batch() -> None:
    theirs, ours = pair()
    x, padding = torch.randn(S, D), torch.tensor([False] * 7 + [True] * 2)
    assert gap(ours(x), theirs(x)) < 1e-5
    wanted = theirs(x, src_key_padding_mask=padding)
    assert gap(ours(x, src_key_padding_mask=padding)[:7], wanted[:7]) < 1e-5


def test_a_sequence_of_padding_alone_gives_no_nan() -> None:
    _, ours = pair()
    y = ours(torch.randn(2, S, D), src_key_padding_mask=torch.tensor([[True] * S, [False] * S]))
    assert y.isfinite().all()


def test_gradients_are_those_of_torch() -> None:
    theirs, ours = pair(dropout=0.0)
    x = torch.randn(B, S, D)
    theirs.train()(x).square().mean().backward()
    ours.train()(x).square().mean().backward()
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        assert gap(mine.linear1.weight.grad, other.linear1.weight.grad) < 1e-5
        pods = list(mine.organism.pool)
        rows = torch.cat([torch.cat([getattr(pod, n).weight.grad for pod in pods]) for n in ("query", "key", "value")])
        assert gap(rows, other.self_attn.in_proj_weight.grad) < 1e-5


def test_masks_of_single_heads_and_other_shapes_are_refused() -> None:
    _, ours = pair()
    for mask in (torch.zeros(B * H, S, S), torch.zeros(S, S + 1)):
        with pytest.raises(ShapeError, match="a mask of shape"):
            ours(torch.randn(B, S, D), mask=mask)
    with pytest.raises(ShapeError, match="cannot share"):
        SlimeMoldEncoder(30, 4, 1)
    with pytest.raises(ShapeError, match="no activation"):
        SlimeMoldEncoder(32, 4, 1, activation="tanh")  # type: ignore[arg-type]
    for shape in ((D,), (B, S, D - 1), (1, B, S, D)):
        with pytest.raises(ShapeError, match="is "):
            ours(torch.randn(shape))
    for dtype in (torch.bool, torch.float32):
        with pytest.raises(ShapeError, match="padding"):
            ours(torch.randn(B, S, D), src_key_padding_mask=torch.zeros(S, B, dtype=dtype))


def test_weights_are_copied_and_not_shared() -> None:
    theirs, ours = pair(norm=True)
    mine = {id(p) for p in ours.parameters()}
    assert not any(id(p) in mine for p in theirs.parameters())


def test_state_dict_copy_and_types() -> None:
    encoder = SlimeMoldEncoder(D, H, 2, F, batch_first=True, lifecycle=Lifecycle(max_size=8)).eval()
    for organism in organisms_of(encoder).values():
        organism.spawn(step=1)
    x = torch.randn(B, S, D)
    again = SlimeMoldEncoder(D, H, 2, F, batch_first=True, lifecycle=Lifecycle(max_size=8), seed=5).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(x), encoder(x))
    assert torch.equal(copy.deepcopy(encoder)(x), encoder(x))
    assert encoder.half()(x.half()).dtype == torch.float16
    assert again.to(torch.float64)(x.double()).dtype == torch.float64


def test_a_state_dict_survives_a_file_without_code(tmp_path: Any) -> None:
    encoder = SlimeMoldEncoder(D, H, 1, F, batch_first=True).eval()
    torch.save(encoder.state_dict(), tmp_path / "state.pt")
    again = SlimeMoldEncoder(D, H, 1, F, batch_first=True, seed=3).eval()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    x = torch.randn(B, S, D)
    assert torch.equal(again(x), encoder(x))


def test_it_learns() -> None:
    encoder = SlimeMoldEncoder(D, H, 1, F, dropout=0.0, batch_first=True)
    x = torch.randn(8, S, D)
    wanted = x.roll(1, 1)
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = (encoder(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("causal", [False, True])
def test_what_is_frozen_answers_to_the_bit(causal: bool) -> None:
    encoder = SlimeMoldEncoder(D, H, 2, F, batch_first=True, lifecycle=Lifecycle()).eval()
    x, padding = torch.randn(B, S, D), torch.zeros(B, S, dtype=torch.bool)
    padding[0, 5:] = True
    with torch.no_grad():
        for organism in organisms_of(encoder).values():
            organism.pool["pod-000002"].gate.fill_(0.37)
    frozen = encoder.freeze()
    for arguments in ({}, {"src_key_padding_mask": padding}, {"mask": torch.randn(S, S)}):
        arguments = {**arguments, **({"is_causal": True} if causal else {})}
        assert torch.equal(frozen(x, **arguments), encoder(x, **arguments)), list(arguments)
    assert not organisms_of(frozen)
    assert not any(isinstance(part, Organism) for part in frozen.modules())
    born = next(iter(organisms_of(encoder).values())).spawn(step=1)
    assert torch.equal(encoder.freeze()(x), frozen(x))  # gate 0: left out
    with torch.no_grad():
        born.gate.fill_(0.3)
    assert gap(encoder.freeze()(x), encoder(x)) < 1e-6


def test_freezing_prunes_what_says_little() -> None:
    encoder = SlimeMoldEncoder(D, H, 1, F, batch_first=True).eval()
    organism = next(iter(organisms_of(encoder).values()))
    with torch.no_grad():
        organism.pool["pod-000001"].gate.fill_(-0.01)
    frozen = encoder.freeze(prune_below=0.02)
    assert sum(p.numel() for p in frozen.parameters()) < sum(p.numel() for p in encoder.freeze().parameters())
    assert gap(frozen(torch.randn(B, S, D)), encoder(torch.randn(B, S, D))) > 0
    assert encoder.freeze(prune_below=9.0)(torch.randn(B, S, D)).isfinite().all()  # nobody is left


def test_what_is_frozen_cannot_be_changed() -> None:
    frozen = SlimeMoldEncoder(D, H, 1, F).freeze()
    for name in ("pool", "spawn", "advance"):
        with pytest.raises(LifecycleError, match="frozen"):
            getattr(frozen.layers[0].organism, name)
