"""How information moves through a row-stochastic attention matrix, and between two series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_stochastic
from toolkit.rng import torch_generator

__all__ = [
    "InformationFlow",
    "attention_rollout",
    "attention_stability",
    "gaussian_transfer_entropy",
    "information_flow_metrics",
    "transfer_entropy",
]


@dataclass(frozen=True)
class InformationFlow:
    """What `information_flow_metrics` found. N tokens, T tiles.

    Args:
        entropy: [*B, N], -sum_j P_ij ln P_ij in nats.
        tile_density: [*B, T], the mean entropy of a tile's rows over ln N: 1 where attention is uniform.
        tile_flow: [*B, T, T], J_bc = (1/N) sum of P_ij from tile b to tile c; sums to 1.
        cross_share: [*B], 1 - trace J, the share that leaves its tile.
        edge_utilisation: [*B], the share of the N^2 edges with P_ij > 1/N.
        participation: [*B, N], 1 / (N sum_j P_ij^2): 1 where uniform, 1/N where one edge takes all.
    """

    entropy: Tensor
    tile_density: Tensor
    tile_flow: Tensor
    cross_share: Tensor
    edge_utilisation: Tensor
    participation: Tensor


def information_flow_metrics(attention: Tensor, tiles: Tensor) -> InformationFlow:
    """Entropy, flow between tiles and use of edges of attention matrices; differentiable but for the edge count.

    Args:
        attention: P, [*B, N, N], N >= 2, rows summing to one.
        tiles: [N] int64, the tile of each token, 0 to T - 1 without gaps.

    Raises:
        GeometryError: P is not row-stochastic, or a tile is empty.
    """
    require_stochastic(attention)
    size = attention.shape[-1]
    counts = torch.bincount(tiles) if tiles.shape == (size,) and int(tiles.min()) >= 0 else torch.zeros(1)
    if size < 2 or int(counts.min()) < 1:
        raise GeometryError(
            f"{size} tokens in tiles of {counts.tolist()[:8]}", hint="two tokens or more, each in one tile, none empty"
        )
    member = torch.nn.functional.one_hot(tiles).to(attention.dtype)
    entropy = -torch.special.xlogy(attention, attention).sum(-1)
    flow = member.T @ attention @ member / size
    return InformationFlow(
        entropy=entropy,
        tile_density=entropy @ member / counts / torch.log(torch.tensor(float(size), dtype=attention.dtype)),
        tile_flow=flow,
        cross_share=1 - flow.diagonal(dim1=-2, dim2=-1).sum(-1),
        edge_utilisation=(attention > 1 / size).to(attention.dtype).mean((-2, -1)),
        participation=1 / (size * attention.square().sum(-1)),
    )


def attention_rollout(layers: Tensor) -> Tensor:
    """The product of 1/2 (P_l + I), the last layer leftmost, of layers [L, *B, N, N] -> [*B, N, N], rows summing to 1.

    Raises:
        GeometryError: a layer is not row-stochastic.

    Source: Abnar & Zuidema 2020.
    """
    require_stochastic(layers)
    eye = torch.eye(layers.shape[-1], dtype=layers.dtype)
    total = eye
    for layer in layers:
        total = 0.5 * (layer + eye) @ total
    return total


def transfer_entropy(source: Tensor, target: Tensor, *, history: int = 1) -> Tensor:
    """I(target_(t+1); source_t | the last `history` symbols of target), plug-in estimate in nats.

    Args:
        source, target: [T] int64 symbols, 0 and up.
        history: How much of its own past explains the target first.

    Returns:
        [] float64, >= 0. Biased upwards by about (symbols - 1) (cells - 1) / 2T where there is no transfer.

    Raises:
        GeometryError: the series differ in length, or are too short.

    Source: Schreiber 2000.
    """
    if source.shape != target.shape or source.ndim != 1 or len(source) < history + 2 or history < 1:
        raise GeometryError(
            f"series of shapes {tuple(source.shape)} and {tuple(target.shape)}, history {history}",
            hint="two series of one length, longer than the history + 1",
        )
    past = target.unfold(0, history, 1)[:-1]
    now, cause = target[history:], source[history - 1 : -1]
    joint = [torch.cat([c[:, None] if c.ndim == 1 else c for c in columns], dim=1)
             for columns in ((now, past, cause), (past, cause), (now, past), (past,))]  # fmt: skip
    full, past_cause, now_past, alone = map(_symbol_entropy, joint)
    known: Tensor = past_cause + now_past - full - alone
    return known.clamp(min=0)


def _symbol_entropy(rows: Tensor) -> Tensor:
    counts: Tensor = torch.unique(rows, dim=0, return_counts=True)[1]
    share = counts.to(torch.float64) / len(rows)
    return -(share * share.log()).sum()


def gaussian_transfer_entropy(source: Tensor, target: Tensor, *, history: int = 1) -> Tensor:
    """1/2 ln(variance left by the target's past / variance left by both pasts), of linear fits; in nats.

    Args:
        source, target: [T], real.
        history: Lags of each.

    Returns:
        [], >= 0 but for rounding: half the Granger causality.

    Raises:
        GeometryError: the series differ in length or are too short, or a fit leaves nothing (a deterministic target).

    Source: Barnett, Barrett & Seth 2009.
    """
    if source.shape != target.shape or source.ndim != 1 or len(source) < 4 * history + 4 or history < 1:
        raise GeometryError(
            f"series of shapes {tuple(source.shape)} and {tuple(target.shape)}, history {history}",
            hint="two series of one length, four times the history or more",
        )
    for series in (source, target):
        require_finite(series, "the series")
    now = target[history:] - target[history:].mean()
    own, other = (lags - lags.mean(0) for lags in (s.unfold(0, history, 1)[:-1] for s in (target, source)))

    def left(columns: Tensor) -> Tensor:
        fit: Tensor = torch.linalg.lstsq(columns, now[:, None], rcond=1e-12, driver="gelsd").solution
        return (now - (columns @ fit)[:, 0]).square().mean()

    reduced, full = left(own), left(torch.cat([own, other], 1))
    if not float(full) > len(now) * torch.finfo(now.dtype).eps * float(target.square().mean()):
        raise GeometryError(f"the fit leaves a variance of {float(full):.3g}", hint="a noiseless target has no entropy")
    gain: Tensor = 0.5 * (reduced / full).log()
    return gain


def attention_stability(attend: Callable[[Tensor], Tensor], inputs: Tensor, *, noise: float, seed: int,
                        repeats: int = 8) -> Tensor:  # fmt: skip
    """How far the rows of an attention matrix move, in total variation, per unit of noise on its input.

    Args:
        attend: inputs -> P [*B, N, N], row-stochastic.
        inputs: Any shape.
        noise: Standard deviation of the Gaussian noise, > 0.
        seed: Of the noise.
        repeats: Draws.

    Returns:
        [*B, N]: the mean of 1/2 sum_j |P_ij - P'_ij| over draws, over `noise`; 0 for constant attention.
    """
    if not noise > 0 or repeats < 1:
        raise GeometryError(f"noise {noise} in {repeats} draws", hint="noise > 0 and at least one draw")
    generator = torch_generator(seed, "attention-stability")
    still = require_stochastic(attend(inputs))
    moved = torch.stack(
        [attend(inputs + noise * torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype))
         for _ in range(repeats)]
    )  # fmt: skip
    return 0.5 * (require_finite(moved, "the moved attention") - still).abs().sum(-1).mean(0) / noise
