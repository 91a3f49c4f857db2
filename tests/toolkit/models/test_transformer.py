"""The baseline: torch's own transformer with the same weights, as many parameters as the model beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from targets.errors import InvalidInput
from toolkit.models import resnet_bk, transformer
from toolkit.models.transformer import Config, Transformer, like

SMALL = {"vocabulary": 23, "width": 16, "heads": 4, "hidden": 40, "context": 50}


def network(**fields: object) -> Transformer:
    model = transformer.build(Config(**{**SMALL, **fields}))
    assert isinstance(model, Transformer)
    return model.double()


def test_its_blocks_are_those_of_torch():
    model, read = network(), torch.arange(40)[None] % 23
    x = model.embed(read) + model.place.weight[:40]
    for block in model.blocks:
        peer = nn.TransformerEncoderLayer(16, 4, 40, 0.0, "gelu", batch_first=True, norm_first=True).double()
        a = block.attention
        with torch.no_grad():
            peer.self_attn.in_proj_weight.copy_(torch.cat([a.query.weight, a.key.weight, a.value.weight]))
            peer.self_attn.in_proj_bias.copy_(torch.cat([a.query.bias, a.key.bias, a.value.bias]))
        pairs = {peer.self_attn.out_proj: a.out, peer.linear1: block.up, peer.linear2: block.down,
                 peer.norm1: block.attention_norm, peer.norm2: block.hidden_norm}  # fmt: skip
        for theirs, ours in pairs.items():
            theirs.load_state_dict(ours.state_dict())
        mask = nn.Transformer.generate_square_subsequent_mask(40, dtype=torch.float64)
        x = peer(x, src_mask=mask, is_causal=True)
    torch.testing.assert_close(model(read), model.classify(model.norm(x)))


def test_later_ids_do_not_reach_earlier_ones():
    model, read = network(), torch.arange(40)[None] % 23
    changed = read.clone()
    changed[:, 20:] = (changed[:, 20:] + 3) % 23
    with torch.no_grad():
        before, after = model(read), model(changed)
    torch.testing.assert_close(after[:, :20], before[:, :20], rtol=1e-12, atol=1e-12)
    assert (after[:, 20] - before[:, 20]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"width": 128, "blocks": 4, "heads": 32, "hidden": 256, "vocabulary": 96, "context": 512},
        {"width": 256, "blocks": 4, "heads": 32, "experts": 8, "hidden": 512},
        {"links": "learned", "scales": 3, "kept_share": 0.5, "ponder_steps": 2, "mode": "both_sides"},
    ],
)
def test_it_has_as_many_parameters(fields):
    config = resnet_bk.Config(**fields)
    ours, theirs = (
        sum(p.numel() for p in model.parameters())
        for model in (transformer.build(like(config)), resnet_bk.build(config))
    )
    assert abs(ours / theirs - 1) < 0.02


def test_the_defaults_are_alike():
    assert Config() == like(resnet_bk.Config())


def test_a_model_with_less_than_attention_has_is_refused():
    with pytest.raises(InvalidInput, match="attention alone has more parameters"):
        like(resnet_bk.Config(experts=1, hidden=1, width=256))


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (torch.zeros(1, 51, dtype=torch.int64), "51 ids, and the position table has 50 rows"),
        (torch.full((1, 3), 23), "the vocabulary has 0 to 22"),
        (torch.zeros(3, dtype=torch.int64), "must be int64"),
    ],
)
def test_ids_that_it_cannot_read_are_refused(read, words):
    with pytest.raises(InvalidInput, match=words):
        network()(read)


def test_heads_that_do_not_share_the_width_are_refused():
    with pytest.raises(InvalidInput, match="5 heads cannot share a width of 64"):
        Config(heads=5)
