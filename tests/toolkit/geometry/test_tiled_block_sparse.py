"""The block-sparse form for GPUs, in the plain form of its kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from toolkit.errors import GeometryError
from toolkit.geometry.neural.attention.block_sparse import TILE, block_sparse_attention, chosen_tiles
from toolkit.rng import torch_generator

over_causal = pytest.mark.parametrize("causal", [False, True])


def inputs(length: int = 4 * TILE, width: int = 16) -> list[Tensor]:
    return [torch.randn(2, 2, length, width, generator=torch_generator(0, name), dtype=torch.float64) for name in "qkv"]


@over_causal
def test_with_all_tiles_it_is_dense(causal: bool) -> None:
    q, k, v = inputs()
    found = block_sparse_attention(q, k, v, 4, causal=causal)
    torch.testing.assert_close(found, scaled_dot_product_attention(q, k, v, is_causal=causal))


@over_causal
@pytest.mark.parametrize("refine", [1, 2, 3])
def test_refined_tiles_are_exact_and_the_others_are_seen_as_means(causal: bool, refine: int) -> None:
    """One softmax over exact logits of the map's tiles and the means of the others, written down row by row."""
    q, k, v = inputs()
    chosen = chosen_tiles(q, k, refine, causal=causal)
    exact = q @ k.mT * 0.25
    place = torch.arange(4 * TILE)
    tile = place // TILE
    visible = chosen[tile][:, tile] & ((place[None] <= place[:, None]) | (not causal))
    coarse = q @ k.unflatten(2, (4, TILE)).mean(3).mT * 0.25 + torch.tensor(float(TILE)).log()
    others = ~chosen[tile] & ((torch.arange(4)[None] < tile[:, None]) | (not causal))
    logits = torch.cat([exact.masked_fill(~visible, -torch.inf), coarse.masked_fill(~others, -torch.inf)], -1)
    wanted = torch.softmax(logits, -1) @ torch.cat([v, v.unflatten(2, (4, TILE)).mean(3)], 2)
    torch.testing.assert_close(block_sparse_attention(q, k, v, refine, causal=causal), wanted)


@over_causal
def test_each_tile_looks_into_its_own_and_into_no_later_one(causal: bool) -> None:
    q, k, _ = inputs()
    for refine in (1, 2, 4):
        chosen = chosen_tiles(q, k, refine, causal=causal)
        assert chosen.diagonal().all()
        assert (chosen.sum(1) <= refine).all()
        assert not causal or not chosen.triu(1).any()
        assert causal or (chosen.sum(1) == refine).all()


def test_the_tile_that_holds_what_is_looked_for_is_chosen() -> None:
    q, k, _ = (0.01 * x for x in inputs())
    q[:, :, :TILE, 0] += 3
    k[:, :, 2 * TILE : 3 * TILE, 0] += 3
    assert chosen_tiles(q, k, 2)[0].tolist() == [True, False, True, False]


def test_sizes_that_do_not_fit_are_refused_by_their_value() -> None:
    q, k, v = inputs()
    with pytest.raises(GeometryError, match="500 tokens are not cut"):
        block_sparse_attention(q[:, :, :500], k[:, :, :500], v[:, :, :500], 1)
    for refine in (0, 5):
        with pytest.raises(GeometryError, match=f"{refine} of 4 tiles cannot be refined"):
            block_sparse_attention(q, k, v, refine)
