"""What an attention was like, as plain numbers: computed only where somebody asks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import log

import torch
from torch import Tensor

from toolkit.geometry.neural.attention.refining import TilePattern
from toolkit.geometry.neural.attention.tiles import AttentionState

__all__ = ["AttentionMetrics", "attention_flops", "forman_curvature", "measured", "tile_chain"]

_POWER_STEPS = 20
_EDGE = 0.5  # an edge of the tile graph has more than this share of what an even spread would give it


@dataclass(frozen=True)
class AttentionMetrics:
    """Means over heads and queries, unless the name says otherwise."""

    attention_entropy_nats: float
    attention_entropy_share: float
    """Of ln N."""
    effective_rank: float
    """exp of the entropy of the tile matrix' singular values."""
    spectral_gap: float
    """1 − |λ₂| of the tile chain: near 0 tiles keep to themselves."""
    refined_fraction: float
    """Tiles of keys that a tile of queries looks into."""
    mass_bound_mean: float
    mass_bound_max: float
    """ε, the certificate: the error is no more than this share of the values' diameter."""
    audit_error: float
    """The largest error of the queries that were asked exactly, in parts of the diameter."""
    curvature_mean: float
    curvature_min: float
    """Forman's, of the tile graph's edges; very negative ones are bottlenecks."""
    flops_ratio: float
    """Of scoring and mixing, tiled over dense."""
    dirichlet_before: float
    dirichlet_after: float
    tile_purity: float | None = None
    """tr c² of the tiles' density matrices, of overlap scores: 1 where all keys of a tile are alike."""
    metric_condition: float | None = None
    """Of the learned metric, the worst head's."""

    def to_json(self) -> dict[str, float]:
        """Those that the score has."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def attention_flops(length: int, tile: int, refine: int, vector: int, feature: int, value: int) -> int:
    """Multiply-adds times two of one head's tiled scores and mixing; dense where the tile is the whole length.

    N T F of coarse scores, N R B E of exact ones, N (R B + T) D of mixing.
    """
    tiles = -(-length // tile)
    padded = tiles * tile
    if tiles == 1:
        return 2 * padded * padded * (vector + value)
    seen = min(refine, tiles) * tile
    return 2 * padded * (tiles * feature + seen * vector + (seen + tiles) * value)


def tile_chain(pattern: TilePattern) -> Tensor:
    """(G, T, T): the share of a tile's attention that goes to each tile, rows that sum to 1."""
    state = pattern.rows.state
    tiles, tile = state.tiles, state.tile
    found = pattern.coarse.mean(1)
    own = torch.arange(found.shape[0], device=found.device)[:, None] % tiles
    refined = own if pattern.choice is None else torch.cat([own, pattern.choice_index()], 1)
    exact = pattern.fine.reshape(*pattern.fine.shape[:2], -1, tile).sum(-1).mean(1)
    return found.scatter_add(1, refined, exact).reshape(-1, tiles, tiles)


def forman_curvature(chain: Tensor) -> Tensor:
    """Of each edge of each tile graph in turn: 4 − d_x − d_y + 3 · triangles; empty where there are no edges.

    Tiles are joined where the symmetrised chain holds more than half of an even spread.
    Source: Sreejith et al. 2016, arXiv:1603.00386.
    """
    tiles = chain.shape[-1]
    joined = (chain + chain.transpose(-1, -2)) / 2 > _EDGE / tiles
    edges = joined & ~torch.eye(tiles, dtype=torch.bool, device=chain.device)
    number = edges.to(chain.dtype)
    degree = number.sum(-1)
    found = 4 - degree.unsqueeze(-1) - degree.unsqueeze(-2) + 3 * (number @ number)
    curvature: Tensor = found[edges.triu()]
    return curvature


def measured(
    pattern: TilePattern, state: AttentionState, *, length: int, refine: int, audit_error: float,
    dirichlet: tuple[float, float], condition: float | None, has_purity: bool,
) -> AttentionMetrics:  # fmt: skip
    """All of them, of weights that carry a certificate."""
    assert pattern.epsilon is not None
    valid = _counted(pattern, length)
    spread = _entropy(pattern)[valid].mean().item()
    chain = tile_chain(pattern)
    curvature = forman_curvature(chain)
    sizes = (state.q.shape[-1], state.f.shape[-1], state.v.shape[-1])
    tiled = attention_flops(length, state.tile, refine, *sizes)
    dense = attention_flops(length, length, 1, *sizes)
    epsilon = pattern.epsilon[valid]
    singular = torch.linalg.svdvals(chain)
    share = singular / singular.sum(-1, keepdim=True)
    return AttentionMetrics(
        attention_entropy_nats=spread,
        attention_entropy_share=spread / log(length) if length > 1 else 0.0,
        effective_rank=torch.special.entr(share).sum(-1).exp().mean().item(),
        spectral_gap=_gap(chain).mean().item(),
        refined_fraction=min(refine, state.tiles) / state.tiles,
        mass_bound_mean=epsilon.mean().item(),
        mass_bound_max=epsilon.max().item(),
        audit_error=audit_error,
        curvature_mean=curvature.mean().item() if len(curvature) else 0.0,
        curvature_min=curvature.min().item() if len(curvature) else 0.0,
        flops_ratio=tiled / dense,
        dirichlet_before=dirichlet[0],
        dirichlet_after=dirichlet[1],
        tile_purity=(state.c * state.c).sum(-1).mean().item() if has_purity else None,
        metric_condition=condition,
    )


def _counted(pattern: TilePattern, length: int) -> Tensor:
    """(G · T, B) bool: queries that are tokens."""
    state = pattern.rows.state
    place = torch.arange(state.tiles * state.tile, device=pattern.fine.device).reshape(state.tiles, state.tile)
    real = (place < length).expand(state.q.shape[0], -1, -1)
    if state.valid is not None:
        real = real & (state.valid > 0.5)
    return real.reshape(-1, state.tile)


def _entropy(pattern: TilePattern) -> Tensor:
    """(G · T, B) nats; the weight of a tile is spread evenly over its tokens."""
    state = pattern.rows.state
    count = torch.full_like(state.rho, float(state.tile)) if state.valid is None else state.valid.sum(2)
    logs = pattern.rows.of_head(count.expand_as(state.rho).clamp_min(1).log().unsqueeze(-1)).transpose(1, 2)
    each = torch.special.entr(pattern.coarse) + pattern.coarse * logs
    total: Tensor = torch.special.entr(pattern.fine).sum(-1) + each.sum(-1)
    return total


def _gap(chain: Tensor) -> Tensor:
    """(G,) 1 − |λ₂|: how fast differences between tiles die, over some steps of the chain.

    The norm of what is left of a vector without its mean shrinks by |λ₂| a step; two rows of P^n differ by as much.
    """
    if chain.shape[-1] == 1:
        return torch.ones_like(chain[:, 0, 0])
    power = torch.linalg.matrix_power(chain, _POWER_STEPS)
    further = chain @ power
    before, after = ((x - x.mean(1, keepdim=True)).flatten(1).norm(dim=1) for x in (power, further))
    tiny = torch.finfo(chain.dtype).eps
    return 1 - torch.where(before > tiny, after / before.clamp_min(tiny), 0.0)
