"""Attention over refined tiles token by token and over all others as means, in one softmax.

    o_i = Σ over tokens j of refined tiles of p_ij v_j  +  Σ over other tiles b of p_ib v̄_b

The weights of a query are those of one softmax over its exact logits and the coarse ones S_ib = ⟨f_i, c_b⟩ + ln B.
Where every logit is an inner product, any attention kernel computes it from refined keys and centres laid side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from toolkit.geometry.neural.attention.choosing import (
    Choice,
    by_ranks,
    by_topk,
    given,
    hidden_tiles,
    just_before,
    priority,
)
from toolkit.geometry.neural.attention.scores import Score
from toolkit.geometry.neural.attention.tiles import HIDDEN, AttentionState

__all__ = ["Rows", "TilePattern", "choose", "coarse_logits", "fused", "later_tokens", "weights"]

_LANES = 8  # kernels for the CPU are fast at widths that are multiples of it, and where values are as wide as keys

# Legend: G heads of all samples, T tiles, n tiles of queries, B tokens in a tile, R tiles refined, D of a value


@dataclass(frozen=True)
class Rows:
    """Which tiles of queries are worked on: all of them, or those with the numbers `index` of G · T."""

    state: AttentionState
    index: Tensor | None = None

    def own(self, x: Tensor) -> Tensor:
        """(G, T, ...) to (n, ...): what belongs to each tile."""
        x = x.flatten(0, 1)
        return x if self.index is None else x.index_select(0, self.index)

    def of_head(self, x: Tensor) -> Tensor:
        """(G, T, F) to (n, T, F): all tiles of a tile's head."""
        if self.index is None:
            return x.unsqueeze(1).expand(-1, self.state.tiles, -1, -1).reshape(-1, *x.shape[1:])
        return x.index_select(0, self.index // self.state.tiles)

    def of_tile(self, table: Tensor) -> Tensor:
        """(T, T) to (n, T): the row of each tile."""
        if self.index is None:
            heads = self.state.c.shape[0]
            return table.unsqueeze(0).expand(heads, -1, -1).flatten(0, 1)
        return table.index_select(0, self.index % self.state.tiles)

    def chosen(self, x: Tensor, choice: Choice) -> Tensor:
        """(G, T, B, E) to (n, (R - 1) · B, E): the tokens of the tiles that each looks into."""
        tiles, tile = self.state.tiles, self.state.tile
        flat = x.reshape(-1, tile * x.shape[-1])
        if choice.one_hot is not None:  # all rows: tiles of one head are gathered by one product of matrices
            picked = choice.one_hot.reshape(-1, tiles * choice.count, tiles)
            return (picked @ flat.reshape(-1, tiles, tile * x.shape[-1])).reshape(-1, choice.count * tile, x.shape[-1])
        assert choice.index is not None
        first = torch.arange(self.state.c.shape[0], device=x.device) * tiles
        if self.index is None:
            first = first.unsqueeze(1).expand(-1, tiles).reshape(-1, 1)
        else:
            first = first.index_select(0, self.index // tiles).unsqueeze(1)
        found = flat.index_select(0, (choice.index + first).reshape(-1))
        return found.reshape(-1, choice.count * tile, x.shape[-1])


@dataclass(frozen=True)
class TilePattern:
    """The weights of all queries, sparse: exact ones on refined tiles, own tile first, and one for every other tile."""

    fine: Tensor
    """(G · T, B, R · B)"""
    coarse: Tensor
    """(G · T, B, T)"""
    choice: Choice | None
    rows: Rows
    epsilon: Tensor | None = None
    """(G · T, B), the certificate; where it was asked for."""

    def apply(self, x: Tensor) -> Tensor:
        """What each query gets of (G, T, B, D): the same shape."""
        state = self.rows.state
        tokens = self.rows.own(x)
        if self.choice is not None:
            tokens = torch.cat([tokens, self.rows.chosen(x, self.choice)], 1)
        mixed = self.fine @ tokens + self.coarse @ self.rows.of_head(_tile_means(x, state.valid))
        return mixed.reshape(-1, state.tiles, state.tile, x.shape[-1])

    def dense(self) -> Tensor:
        """(G, N, N) with N = T · B: the same weights as a matrix; a tile's weight is spread over its tokens."""
        state = self.rows.state
        heads, tiles, tile = state.q.shape[:3]
        shape = (heads, tiles, tile, tiles * tile)
        valid = torch.ones_like(state.v[..., 0]) if state.valid is None else state.valid.expand(heads, -1, -1)
        spread = valid / valid.sum(-1, keepdim=True).clamp_min(1)
        found = (self.coarse.reshape(*shape[:3], tiles, 1) * spread[:, None, None]).reshape(shape)
        number = (
            torch.arange(tiles * tile, device=found.device).reshape(1, 1, tiles, tile, 1).expand(heads, -1, -1, -1, -1)
        )
        own = torch.arange(heads * tiles, device=found.device)[:, None] % tiles
        refined = own if self.choice is None else torch.cat([own, self.choice_index()], 1)
        place = number[0, 0, :, :, 0][refined].reshape(heads, tiles, 1, -1).expand(-1, -1, tile, -1)
        return found.scatter_add(-1, place, self.fine.reshape(*shape[:3], -1)).reshape(heads, -1, tiles * tile)

    def choice_index(self) -> Tensor:
        """(G · T, R - 1) int64."""
        assert self.choice is not None
        if self.choice.index is not None:
            return self.choice.index
        assert self.choice.one_hot is not None
        return self.choice.one_hot.argmax(-1)


def coarse_logits(score: Score, rows: Rows, queries: Tensor | None = None) -> Tensor:
    """S (n, B, T) of whole tiles at their centres.

    Args:
        queries: (G, T, B, F), features; those of the state where None.
    """
    state = rows.state
    found = score.coarse(rows.own(state.f if queries is None else queries), rows.of_head(state.c))
    if isinstance(state.log_count, float):
        return found + state.log_count
    heads = state.c.shape[0]
    return found + rows.of_head(state.log_count.expand(heads, -1, -1)).transpose(1, 2)


def choose(
    score: Score, rows: Rows, coarse: Tensor, refine: int, causal: bool, plan: str, near: int = 0,
    static: Tensor | None = None,
) -> Choice:  # fmt: skip
    """R − 1 tiles besides the own; with R = 1 none.

    Args:
        plan: "topk" or "ranked"; "static" takes `static`, (G, T, R - 1).
        near: The tiles just before the own that come first, whatever they hold.
    """
    state = rows.state
    hidden = rows.of_tile(hidden_tiles(state.tiles, causal, coarse))
    if plan == "static":
        assert static is not None
        return given(rows.own(static), refine - 1, hidden)
    if refine == 1:
        return Choice(0, None, None, hidden[:, :0], hidden.unsqueeze(1))
    with torch.no_grad():  # which tiles are chosen has no gradient
        slack = score.slack(rows.own(state.asks), rows.of_head(state.rho.unsqueeze(-1)).squeeze(-1))
        asked = _asked(score, rows, coarse, hidden, causal)
        own = rows.of_tile(torch.eye(state.tiles, dtype=coarse.dtype, device=coarse.device))
        if state.silent is not None:
            slack = slack + rows.own(state.silent.expand(state.c.shape[0], -1, -1)).unsqueeze(-1)
        wanted = priority(asked, slack, hidden, own)
        if near:
            wanted = wanted - rows.of_tile(just_before(state.tiles, near, coarse)) * HIDDEN
        return (by_ranks if plan == "ranked" else by_topk)(wanted, refine - 1, hidden)


def _asked(score: Score, rows: Rows, coarse: Tensor, hidden: Tensor, causal: bool) -> Tensor:
    """(n, B, T), the coarse logits by which tiles are chosen; without those that the queries asked may not see."""
    state = rows.state
    if state.asks is not state.f:
        return coarse_logits(score, rows, state.asks) + hidden.unsqueeze(1)
    if not causal:
        return coarse
    own = torch.eye(state.tiles, dtype=coarse.dtype, device=coarse.device)
    return coarse + (hidden * (1 - rows.of_tile(own))).unsqueeze(1)


def later_tokens(tile: int, like: Tensor) -> Tensor:
    """(B, B): what a token of the own tile loses where it comes after the query."""
    place = torch.arange(tile, device=like.device)
    return (place[None, :] > place[:, None]).to(like.dtype) * HIDDEN


def weights(score: Score, rows: Rows, coarse: Tensor, choice: Choice, causal: bool, certify: bool) -> TilePattern:
    """The softmax of n tiles of queries, spelled out; with `certify` the bound ε of each query as well.

    ε = sigmoid(logsumexp over unrefined tiles of (S + δ) − logsumexp of the exact logits): no less than the share of
    the unrefined tiles in the true mass, nor than that in the approximate one.
    """
    state = rows.state
    q, tile, refined = rows.own(state.q), state.tile, choice.count
    exact = score.logits(q, rows.own(state.k))
    if causal:
        exact = exact + later_tokens(tile, exact)
    if refined:
        others = score.logits(q, rows.chosen(state.k, choice))
        late = choice.hidden.unsqueeze(-1).expand(-1, -1, tile).reshape(-1, 1, refined * tile)
        exact = torch.cat([exact, others + late], -1)
    unseen = coarse + choice.unseen
    p = torch.softmax(torch.cat([exact, unseen], -1), dim=-1)
    epsilon = None
    if certify:
        slack = score.slack(rows.own(state.f), rows.of_head(state.rho.unsqueeze(-1)).squeeze(-1))
        epsilon = torch.sigmoid((unseen + slack).logsumexp(-1) - exact.logsumexp(-1))
    count = (1 + refined) * tile
    return TilePattern(p[..., :count], p[..., count:], choice if refined else None, rows, epsilon)


def fused(rows: Rows, choice: Choice, causal: bool) -> Tensor:
    """(n, B, D) by torch's own attention kernel, from refined keys and centres side by side; where logits are products.

    What keys add goes in by the mask, which costs the kernel nothing; a further column of the keys would cost eight.
    """
    state = rows.state
    keys_of = [*_tokens(rows, state.k, choice), rows.of_head(state.c)]
    keys = torch.cat([x[..., :-1] for x in keys_of], 1)
    values = torch.cat([*_tokens(rows, state.v, choice), rows.of_head(state.vbar)], 1)
    added = torch.cat([x[..., -1] for x in keys_of], 1)
    added = added + torch.cat([_late(rows, choice), choice.unseen.squeeze(1) + _log_count(rows)], 1)
    mask = added.unsqueeze(1)
    if causal:
        mask = mask + pad(later_tokens(state.tile, keys), (0, keys.shape[1] - state.tile))
    return attended(rows.own(state.q)[..., :-1], keys, values, mask.unsqueeze(1))


def spelled(
    score: Score, rows: Rows, coarse: Tensor, choice: Choice, causal: bool, room: Tensor | None = None
) -> Tensor:
    """(n, B, D) of any score: `weights` applied, without keeping them.

    Args:
        room: (2, n or more, B, R · B + T), to hold logits and weights; None where they have gradients. New memory of
            this size costs a CPU more than the arithmetic.
    """
    state = rows.state
    q, keys = rows.own(state.q), torch.cat(_tokens(rows, state.k, choice), 1)
    values = torch.cat([*_tokens(rows, state.v, choice), rows.of_head(state.vbar)], 1)
    added, count = (keys[..., -1] + _late(rows, choice)).unsqueeze(1), keys.shape[1]
    later = later_tokens(state.tile, keys) if causal else None
    if room is None:
        exact = score.bare(q, keys).add_(added)
        if later is not None:
            exact[..., : state.tile].add_(later)
        return torch.softmax(torch.cat([exact, coarse + choice.unseen], -1), -1) @ values
    logits, p = room[:, : len(q)]
    exact = logits[..., :count]
    score.write(q, keys, added, exact, p.view(-1)[: exact.numel()].view(exact.shape))
    if later is not None:
        exact[..., : state.tile].add_(later)
    torch.add(coarse, choice.unseen, out=logits[..., count:])
    return torch.softmax(logits, -1, out=p) @ values


def _tokens(rows: Rows, x: Tensor, choice: Choice) -> list[Tensor]:
    """(G, T, B, E) to what each tile of queries sees token by token: (n, B, E) of its own, (n, (R − 1) · B, E)."""
    return [rows.own(x), rows.chosen(x, choice)] if choice.count else [rows.own(x)]


def _late(rows: Rows, choice: Choice) -> Tensor:
    """(n, R · B) of `_tokens`: HIDDEN where a tile was chosen that is not to be seen."""
    tile = rows.state.tile
    return pad(choice.hidden.repeat_interleave(tile, 1), (tile, 0))


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ + mask) v, all as wide as the kernel likes them: (n, Q, E), (n, K, E), (n, K, D) to (n, Q, D)."""
    width = -(-max(q.shape[-1], v.shape[-1]) // _LANES) * _LANES
    q_wide, k_wide, v_wide = (pad(x, (0, width - x.shape[-1])).unsqueeze(1) for x in (q, k, v))
    mixed = scaled_dot_product_attention(q_wide, k_wide, v_wide, attn_mask=mask, scale=1.0)
    return mixed.squeeze(1)[..., : v.shape[-1]]


def _log_count(rows: Rows) -> Tensor | float:
    state = rows.state
    if isinstance(state.log_count, float):
        return state.log_count
    return rows.of_head(state.log_count.expand(state.c.shape[0], -1, -1)).squeeze(-1)


def _tile_means(x: Tensor, valid: Tensor | None) -> Tensor:
    """(G, T, B, D) to (G, T, D), over the tokens that count."""
    if valid is None:
        return x.mean(2)
    weight = valid / valid.sum(2, keepdim=True).clamp_min(1)
    return (x * weight.unsqueeze(-1)).sum(2)
