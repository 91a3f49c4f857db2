"""Self-attention over adaptive tiles, with a choice of scores: a drop-in for attention in a network.

The same weights serve every plan, so that a network trained dense is deployed tiled:

    dense      every pair of tokens
    topk       R tiles of keys for each tile of queries, chosen by the input (TopK and Gather when exported)
    ranked     the same tiles, spelled in comparisons and products of matrices; for runtimes without TopK, few tiles
    static     tiles that `settle` chose once
    threshold  as many as bring the certificate under `tolerance`; in plain torch alone

Exported for a given length; the batch may vary in TorchScript. README.md has the formulas, limits and tuning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.neural.attention.born import born
from toolkit.geometry.neural.attention.certificate import audit
from toolkit.geometry.neural.attention.choosing import Choice
from toolkit.geometry.neural.attention.flow import FlowMetrics, dirichlet_energy, flow
from toolkit.geometry.neural.attention.metrics import AttentionMetrics, measured
from toolkit.geometry.neural.attention.refining import (
    Rows,
    TilePattern,
    attended,
    choose,
    coarse_logits,
    fused,
    later_tokens,
    spelled,
    weights,
)
from toolkit.geometry.neural.attention.scores import ScoreName, make_score
from toolkit.geometry.neural.attention.tiles import AttentionState, joined, prepare
from toolkit.models.blueprints.sizes import length_of
from toolkit.models.exporting import exporting

__all__ = ["ChooseBy", "Plan", "QuantumGeometricAttention"]

Plan = Literal["dense", "topk", "ranked", "static", "threshold"]

ChooseBy = Literal["own", "earlier"]

_AT_ONCE = 2**19
"""Logits that exist at a time where nothing needs them all."""

# Legend: b samples, H heads, N tokens, G = b · H, T tiles, B tokens in a tile, m numbers of a state, D of a value


class QuantumGeometricAttention(nn.Module):
    """(b, N, hidden) to the same.

    Args:
        hidden_dim: Divided by `num_heads`, the width of a value.
        manifold_dim: m, numbers of a query's and key's state in one head.
        motive_rank: Rank of the low-rank part of the score "metric".
        num_layers: Steps of heat flow; 1 is plain attention.
        flow_share: h of a step, in [0, 1].
        tile_size: B.
        refine: R, tiles of keys a tile of queries looks into, its own among them.
        choose_by: Whose wishes decide which tiles are refined: "own", those of a tile's queries, or "earlier", of its
            first and those before it, so that a causal network tells no token anything of a later one.
        near: Of the R − 1 others, so many are the tiles just before the own, whatever they hold.
        tolerance: Of the plan "threshold": largest certificate ε of a query.
        dropout: Of the answers, while training.

    Raises:
        GeometryError: sizes that do not go together, or a name that is none.
    """

    def __init__(
        self, hidden_dim: int, num_heads: int, *, manifold_dim: int = 16, motive_rank: int = 2, num_layers: int = 1,
        flow_share: float = 0.5, tile_size: int = 64, refine: int = 4, score: ScoreName = "metric",
        plan: Plan = "topk", causal: bool = False, choose_by: ChooseBy = "own", near: int = 0,
        tolerance: float = 0.1, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        _check(hidden_dim, num_heads, flow_share)
        _check_name("plan", plan, get_args(Plan))
        _check_name("choose_by", choose_by, get_args(ChooseBy))
        for name, value in {"manifold_dim": manifold_dim, "num_layers": num_layers, "tile_size": tile_size,
                            "refine": refine}.items():  # fmt: skip
            if value < 1:
                raise GeometryError(f"{name} is {value}", hint=f"choose a {name} of 1 or more")
        self.heads, self.steps, self.share = num_heads, num_layers, flow_share
        self.tile, self.refine, self.plan, self.causal, self.tolerance = tile_size, refine, plan, causal, tolerance
        if near < 0:
            raise GeometryError(f"near is {near}", hint="choose a near of 0 or more")
        self.earlier, self.near = choose_by == "earlier", near
        self.is_born = score == "born"
        self.score = make_score(score, num_heads, manifold_dim, motive_rank)
        self.query, self.key = (nn.Linear(hidden_dim, num_heads * manifold_dim) for _ in range(2))
        self.value, self.out = (nn.Linear(hidden_dim, hidden_dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.settled: Tensor | None
        self.register_buffer("settled", None, persistent=False)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, return_metrics: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, float]]:
        """(b, N, hidden) to the same; with `return_metrics`, and what the attention was like.

        Args:
            mask: (b, N) bool, False for tokens that nobody attends to.

        Raises:
            GeometryError: another shape; a sample in which nothing may be seen; metrics of the score "born".
        """
        state = self.prepare_attention_state(x, mask)
        length = length_of(x)
        if return_metrics:
            out, metrics = self._measured(state, length)
            found = metrics.to_json()
        else:
            out = self._answers(state)
        mixed: Tensor = self.dropout(self.out(joined(out, self.heads, length)))
        return (mixed, found) if return_metrics else mixed

    def prepare_attention_state(self, x: Tensor, mask: Tensor | None = None) -> AttentionState:
        """Queries, keys and values of (b, N, hidden), cut into tiles; as `forward` for the rest."""
        _check_input(x, mask, self.query.in_features)
        length = length_of(x)
        q, k, v = (
            layer(x).reshape(-1, length, self.heads, layer.out_features // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        return self._prepared(q, k, v, mask, 1.0, length)

    def compute_attention_patterns(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0, mask: Tensor | None = None
    ) -> tuple[Tensor, AttentionMetrics]:
        """(b, H, N, m) twice and (b, H, N, D) to answers (b, H, N, D) and what the attention was like.

        Args:
            scale: Factor on the temperature of the score.

        Raises:
            GeometryError: shapes that do not go together.
        """
        shapes = tuple(query.shape), tuple(key.shape), tuple(value.shape)
        if query.ndim != 4 or query.shape != key.shape or value.shape[:3] != query.shape[:3]:
            raise GeometryError(
                f"queries, keys and values come as {shapes}", hint="give (b, H, N, m) twice, (b, H, N, D)"
            )
        if query.shape[1:4:2] != (self.heads, self.score.width):
            raise GeometryError(f"states come as {shapes[0]}", hint=f"H is {self.heads} and m is {self.score.width}")
        length = query.shape[2]
        state = self._prepared(query, key, value, mask, scale, length)
        out, metrics = self._measured(state, length)
        return out.reshape(*value.shape[:2], -1, value.shape[3])[:, :, :length], metrics

    def patterns(self, state: AttentionState, *, certify: bool = True) -> TilePattern:
        """The weights of all queries in sparse form; of the plan's tiles, of all of them where it is "dense".

        With the plan "threshold" every tile of queries gets as many tiles as the least certain one needs.
        """
        if self.is_born:
            raise GeometryError("the score born has no tiles to refine", hint="it is exact; use another score")
        rows = Rows(state)
        refine = state.tiles if self.plan == "dense" else min(self.refine, state.tiles)
        if self.plan == "threshold":
            refine = self._enough(state)
        return self._pattern(rows, refine, certify)

    def geometric_attention_flow(
        self, patterns: TilePattern, values: Tensor, measure: Tensor | None = None
    ) -> tuple[Tensor, FlowMetrics]:
        """The values (G, T, B, D) after all steps of the flow along fixed weights, and their energies.

        Args:
            measure: Positive weights of tokens in the energies, (G, T, B); 1 where None.
        """
        first, last = patterns.apply(values), flow(patterns.apply, values, self.steps, self.share)
        energies = (dirichlet_energy(patterns.apply, x, measure).mean().item() for x in (first, last))
        return last, FlowMetrics(*energies)

    def settle(self, x: Tensor) -> None:
        """Choose the tiles of the plan "static" from typical inputs (b, N, hidden): those chosen most often.

        Later inputs must have the same length.
        """
        state = self.prepare_attention_state(x)
        rows, count = Rows(state), min(self.refine, state.tiles)
        votes = torch.zeros(self.heads, state.tiles, state.tiles, device=x.device)
        if count > 1:
            with torch.no_grad():
                coarse = coarse_logits(self.score, rows)
                chosen = choose(self.score, rows, coarse, count, self.causal, "topk", self.near).index
            assert chosen is not None
            for sample in chosen.reshape(-1, self.heads, state.tiles, count - 1):
                votes.scatter_add_(-1, sample, torch.ones_like(sample, dtype=votes.dtype))
        self.settled = votes.topk(count - 1, dim=-1).indices

    # ---- within

    def _prepared(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, length: int
    ) -> AttentionState:
        return prepare(self.score, q, k, v, length=length, tile=min(self.tile, length), valid=mask,
                       earlier=self.earlier, scale=scale)  # fmt: skip

    def _answers(self, state: AttentionState) -> Tensor:
        """(G, T, B, D)"""
        if self.plan == "threshold" and exporting():
            raise GeometryError("the plan threshold depends on the input", hint="export with topk, ranked or static")
        if self.is_born:
            return flow(lambda x: born(self.score, replace(state, v=x), self.causal), state.v, self.steps, self.share)
        if self.plan == "threshold":
            return self._until_certain(state)
        if self.plan == "dense":
            return flow(lambda x: self._dense(state, x), state.v, self.steps, self.share)
        refine = min(self.refine, state.tiles)
        if self.steps > 1 or exporting() or self.plan == "ranked":
            return flow(self._pattern(Rows(state), refine, False).apply, state.v, self.steps, self.share)
        return self._in_parts(state, refine)

    def _pattern(self, rows: Rows, refine: int, certify: bool) -> TilePattern:
        coarse = coarse_logits(self.score, rows)
        return weights(self.score, rows, coarse, self._choice(rows, coarse, refine), self.causal, certify)

    def _choice(self, rows: Rows, coarse: Tensor, refine: int) -> Choice:
        if self.plan != "static":
            return choose(self.score, rows, coarse, refine, self.causal, self.plan, self.near)
        settled = self.settled
        if settled is None:
            raise GeometryError("no tiles were settled", hint="call settle with typical inputs first")
        if not exporting() and settled.shape[1:] != (rows.state.tiles, refine - 1):
            raise GeometryError(
                f"settled were {settled.shape[2]} of {settled.shape[1]} tiles, and these are {refine - 1} of "
                f"{rows.state.tiles}", hint="call settle again with inputs of this length",
            )  # fmt: skip
        samples = settled.unsqueeze(0).expand(rows.state.c.shape[0] // self.heads, -1, -1, -1).flatten(0, 1)
        return choose(self.score, rows, coarse, refine, self.causal, "static", static=samples)

    def _in_parts(self, state: AttentionState, refine: int) -> Tensor:
        """Some tiles of queries at a time, so that memory does not hold the logits of all."""
        count, tiles, tile = state.c.shape[0] * state.tiles, state.tiles, state.tile
        seen = refine * tile + tiles
        at_once = min(max(_AT_ONCE // (tile * seen), 1), count)
        room = None
        if not (self.score.is_linear or torch.is_grad_enabled() or torch.compiler.is_compiling()):
            room = state.q.new_empty(2, at_once, tile, seen)
        parts = []
        for first in range(0, count, at_once):
            rows = Rows(state, torch.arange(first, min(first + at_once, count), device=state.q.device))
            parts.append(self._part(rows, refine, room))
        return torch.cat(parts).reshape(state.v.shape)

    def _part(self, rows: Rows, refine: int, room: Tensor | None) -> Tensor:
        """(n, B, D)"""
        coarse = coarse_logits(self.score, rows)
        choice = self._choice(rows, coarse, refine)
        if self.score.is_linear:
            return fused(rows, choice, self.causal)
        return spelled(self.score, rows, coarse, choice, self.causal, room)

    def _until_certain(self, state: AttentionState) -> Tensor:
        """Twice as many tiles for those tiles of queries that are not certain yet, until all are."""
        if self.steps > 1:
            return flow(self.patterns(state, certify=False).apply, state.v, self.steps, self.share)
        out = torch.zeros_like(state.v).flatten(0, 1)
        left = torch.arange(out.shape[0], device=out.device)
        refine = 1
        while len(left):
            rows = Rows(state, left)
            found = self._pattern(rows, refine, True)
            assert found.epsilon is not None
            certain = (found.epsilon.amax(-1) <= self.tolerance) | (refine == state.tiles)
            out = out.index_copy(0, left[certain], _mixed(found, rows)[certain])
            left, refine = left[~certain], min(2 * refine, state.tiles)
        return out.reshape(state.v.shape)

    def _enough(self, state: AttentionState) -> int:
        """The fewest tiles, of 1, 2, 4 ..., with which every query is certain."""
        refine = 1
        while refine < state.tiles:
            found = self._pattern(Rows(state), refine, True)
            assert found.epsilon is not None
            if found.epsilon.max() <= self.tolerance:
                break
            refine = min(2 * refine, state.tiles)
        return refine

    def _dense(self, state: AttentionState, x: Tensor) -> Tensor:
        q, k, v = state.q.flatten(1, 2), state.k.flatten(1, 2), x.flatten(1, 2)
        later = later_tokens(q.shape[1], q) if self.causal else None
        if self.score.is_linear and not exporting():
            return attended(q, k, v, later).reshape(x.shape)
        logits = self.score.logits(q, k)
        p = torch.softmax(logits if later is None else logits + later, -1)
        return (p @ v).reshape(x.shape)

    def _measured(self, state: AttentionState, length: int) -> tuple[Tensor, AttentionMetrics]:
        with torch.no_grad():
            pattern = self.patterns(state)
            assert pattern.epsilon is not None
            first = pattern.apply(state.v)
            found = audit(self.score, state, first, pattern.epsilon, length=length, causal=self.causal)
            _, energy = self.geometric_attention_flow(pattern, state.v)
            refine = 1 + (0 if pattern.choice is None else pattern.choice.count)
            metrics = measured(
                pattern, state, length=length, refine=refine, audit_error=found.error.max().item(),
                dirichlet=(energy.dirichlet_before, energy.dirichlet_after), condition=self.score.condition(),
                has_purity=self.score.is_overlap,
            )  # fmt: skip
        return self._answers(state), metrics


def _mixed(found: TilePattern, rows: Rows) -> Tensor:
    """(n, B, D) of some tiles of queries."""
    state = rows.state
    tokens = rows.own(state.v)
    if found.choice is not None:
        tokens = torch.cat([tokens, rows.chosen(state.v, found.choice)], 1)
    return found.fine @ tokens + found.coarse @ rows.of_head(state.vbar)


def _check(hidden: int, heads: int, share: float) -> None:
    if heads < 1 or hidden < 1 or hidden % heads:
        raise GeometryError(
            f"{heads} heads cannot share {hidden} features", hint="choose a hidden_dim that is a multiple of num_heads"
        )
    if not 0 <= share <= 1:
        raise GeometryError(f"flow_share is {share}", hint="choose a share of a step from 0 to 1")


def _check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise GeometryError(f"there is no {kind} {name!r}", hint=f"known: {', '.join(known)}")


def _check_input(x: Tensor, mask: Tensor | None, width: int) -> None:
    """Nothing, of what can be attended over; values are looked at on the CPU alone, and not while exported."""
    if exporting() or torch.compiler.is_compiling():
        return
    if x.ndim != 3 or x.shape[2] != width or 0 in x.shape:
        raise GeometryError(f"tokens come as {tuple(x.shape)}", hint=f"give (batch, length, {width}), none of them 0")
    if x.device.type == "cpu":
        require_finite(x, "a token")
    if mask is None:
        return
    if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
        raise GeometryError(
            f"the mask is {mask.dtype} {tuple(mask.shape)}", hint=f"give bool {tuple(x.shape[:2])}, False where hidden"
        )
    if x.device.type == "cpu" and not mask.any(1).all():
        empty = int((~mask.any(1)).nonzero()[0])
        raise GeometryError(f"nothing may be seen in sample {empty}", hint="leave one token or more visible")
