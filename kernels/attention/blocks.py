"""Attention in plain torch by blocks of keys: what a row's softmax needs is carried along, never the whole matrix.

The recurrence of a row over blocks, with scores s: m' = max(m, max s), a = exp(m − m'), p = exp(s − m'), and every sum
under the row's distribution follows as sum' = a sum + Σ p f. Backward computes p again from lse. Heads that share keys
lie side by side: R heads by S (those that share) by M queries by d.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention.visible import visible

__all__ = ["BLOCK", "attention", "attention_backward", "scores_at_once"]

BLOCK = 256
"""Keys at a time."""


@dataclass(frozen=True)
class _Sight:
    """Which keys are attended to; lengths of all queries and keys."""

    m: int
    n: int
    key_padding: Tensor | None  # (R, N)
    tiles: Tensor | None
    causal: bool
    window: int | None

    def blocks(self, rows: slice) -> Iterator[slice]:
        """Blocks of keys that some query of `rows` may attend to."""
        first, last = rows.start + self.n - self.m, rows.stop - 1 + self.n - self.m
        low, high = 0, self.n
        if self.causal:
            high = min(high, last + 1)
        if self.window is not None:
            low, high = max(low, first - self.window), min(high, last + self.window + 1)
        for start in range(low // BLOCK * BLOCK, high, BLOCK):
            yield slice(start, min(start + BLOCK, self.n))

    def near(self, rows: slice, keys: slice) -> slice:
        """Those of `rows` that may attend to some of `keys`."""
        first, last = keys.start + self.m - self.n, keys.stop - 1 + self.m - self.n  # queries at the same positions
        low, high = rows.start, rows.stop
        if self.causal:
            low = max(low, first)
        if self.window is not None:
            low, high = max(low, first - self.window), min(high, last + self.window + 1)
        return slice(low, max(low, high))

    def mask(self, rows: slice, keys: slice, heads: slice, like: Tensor) -> Tensor | None:
        """(heads or 1, 1, leading of rows, keys), True where not attended; rows that it leaves out attend to all."""
        leading = rows.stop - rows.start
        if self.window is None and self.tiles is None and self.key_padding is None:
            whole = keys.stop - 1 + self.m - self.n  # the first query that attends to every key
            leading = min(max(whole - rows.start, 0), leading) if self.causal else 0
        if not leading:
            return None
        query = torch.arange(rows.start, rows.start + leading, device=like.device) + (self.n - self.m)
        key = torch.arange(keys.start, keys.stop, device=like.device)
        padding = None if self.key_padding is None else self.key_padding[heads]
        seen = visible(query, key, self.m, self.n, padding, self.tiles, self.causal, self.window)
        if seen is None:
            return None
        hidden = seen.logical_not()
        return hidden.view(*[1] * (4 - hidden.ndim), *hidden.shape).expand(-1, -1, leading, -1)


def attention(
    q: Tensor, k: Tensor, v: Tensor, key_padding: Tensor | None, tiles: Tensor | None,
    causal: bool, window: int | None, scale: float, return_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(out, lse, statistics (5, B, H)); sums are in float32, or float64 for float64."""
    batch, heads, m, _ = q.shape
    sums = torch.float64 if q.dtype == torch.float64 else torch.float32
    sight, queries, keys, values = _laid_out(q, k, v, key_padding, tiles, causal, window)
    out = q.new_empty(*queries.shape[:3], v.shape[3])
    lse = q.new_empty(queries.shape[:3], dtype=sums)
    rows_of = q.new_zeros(5, *queries.shape[:3], dtype=sums) if return_stats else None
    for some, rows in _chunks(queries):
        found = _rows(queries[some, :, rows].to(sums) * scale, keys[some], values[some], sight, some, rows, rows_of)
        out[some, :, rows], lse[some, :, rows] = found
    stats = lse.new_zeros(0, batch, heads) if rows_of is None else _means(rows_of, lse).reshape(5, batch, heads)
    return out.reshape(batch, heads, m, v.shape[3]), lse.reshape(batch, heads, m), stats


def attention_backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    key_padding: Tensor | None, tiles: Tensor | None, causal: bool, window: int | None, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """With ds = p (dout·v − δ), δ = Σ out·dout − dlse: dq = scale ds k, dk = scale dsᵀ q, dv = pᵀ dout."""
    sums = lse.dtype
    sight, queries, keys, values = _laid_out(q, k, v, key_padding, tiles, causal, window)
    dq = torch.empty(queries.shape, dtype=q.dtype, device=q.device)
    dk, dv = (torch.zeros(x.shape, dtype=sums, device=q.device) for x in (keys, values))
    delta = (out.to(sums) * dout.to(sums)).sum(3) - dlse
    delta, lse = delta.reshape(queries.shape[:3]), lse.reshape(queries.shape[:3])
    douts = dout.reshape(*queries.shape[:3], v.shape[3])
    for some, rows in _chunks(queries):
        dq[some, :, rows] = _row_gradients(
            queries[some, :, rows].to(sums) * scale, douts[some, :, rows].to(sums), lse[some, :, rows],
            delta[some, :, rows], keys[some], values[some], dk[some], dv[some], sight, some, rows,
        ) * scale  # fmt: skip
    return dq.reshape(q.shape), dk.to(k.dtype).reshape(k.shape), dv.to(v.dtype).reshape(v.shape)


def scores_at_once(device: torch.device) -> int:
    """Scores that exist at a time: as many as a core's cache holds, or as keep a GPU busy."""
    return 2**25 if device.type == "cuda" else 2**18


def _laid_out(
    q: Tensor, k: Tensor, v: Tensor, key_padding: Tensor | None, tiles: Tensor | None, causal: bool, window: int | None
) -> tuple[_Sight, Tensor, Tensor, Tensor]:
    """Queries (R, S, M, d), keys (R, N, d), values (R, N, dv); R counts batch and heads of keys."""
    batch, heads, m, d = q.shape
    shared, n = k.shape[1:3]
    if key_padding is not None:
        key_padding = key_padding.repeat_interleave(shared, dim=0)
    queries = q.reshape(batch * shared, heads // shared, m, d)
    sight = _Sight(m, n, key_padding, tiles, causal, window)
    return sight, queries, k.reshape(batch * shared, n, d), v.reshape(batch * shared, n, v.shape[3])


def _chunks(queries: Tensor) -> Iterator[tuple[slice, slice]]:
    """Heads, and rows of theirs, that are worked on together."""
    count, members, m, _ = queries.shape
    rows = max(scores_at_once(queries.device) // (BLOCK * max(members, 1)), 16)
    together = max(rows // max(m, 1), 1)
    for head in range(0, count, together):
        for row in range(0, m, rows):
            yield slice(head, min(head + together, count)), slice(row, min(row + rows, m))


def _rows(
    q: Tensor, keys: Tensor, values: Tensor, sight: _Sight, some: slice, rows: slice, rows_of: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Out and lse of some rows (heads, S, rows, d), scaled; their statistics go where they belong in `rows_of`."""
    sums = _Sums.empty(q, values.shape[2], rows_of is not None)
    for block in sight.blocks(rows):
        near = sight.near(rows, block)
        local = slice(near.start - rows.start, near.stop - rows.start)
        hidden = sight.mask(near, block, some, q)
        k, v = keys[:, block].to(q.dtype), values[:, block].to(q.dtype)
        sums.of(local).add(q[:, :, local], k, v, hidden, near, block, sight)
    empty = sums.weight == 0
    weight = torch.where(empty, 1.0, sums.weight)
    if sums.carried is not None and rows_of is not None:
        rows_of[:, some, :, rows] = torch.where(empty, 0.0, sums.carried.of_rows(weight))[..., 0]
    lse = torch.where(empty, -torch.inf, sums.peak + weight.log())
    return sums.out / weight, lse[..., 0]


@dataclass(frozen=True)
class _Sums:
    """Of each row, under the weights exp(s − peak): (heads, S, rows, 1), `out` (heads, S, rows, dv)."""

    peak: Tensor
    weight: Tensor
    out: Tensor
    carried: _Carried | None

    @classmethod
    def empty(cls, q: Tensor, dv: int, return_stats: bool) -> _Sums:
        peak = q.new_full((*q.shape[:3], 1), -torch.inf)
        carried = _Carried(*(torch.zeros_like(peak) for _ in range(5))) if return_stats else None
        return cls(peak, torch.zeros_like(peak), q.new_zeros(*q.shape[:3], dv), carried)

    def of(self, rows: slice) -> _Sums:
        """Those of some rows, in place."""
        peak, weight, out = (x[:, :, rows] for x in (self.peak, self.weight, self.out))
        return _Sums(peak, weight, out, None if self.carried is None else self.carried.of(rows))

    def add(
        self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, rows: slice, keys: slice, sight: _Sight
    ) -> None:  # fmt: skip
        """One block of keys; `hidden` is of the first rows."""
        s = _times(q, k.mT)
        if hidden is not None:
            s[:, :, : hidden.shape[2]].masked_fill_(hidden, -torch.inf)
        higher = torch.maximum(self.peak, s.amax(3, keepdim=True))
        level = torch.where(higher == -torch.inf, 0.0, higher)
        fall = torch.where(self.peak == -torch.inf, 0.0, self.peak - level)
        shrink = (self.peak - level).exp_()
        p = s.sub_(level).exp()
        if self.carried is not None:
            if hidden is not None:
                s[:, :, : hidden.shape[2]].masked_fill_(hidden, 0.0)
            self.carried.add(p, s, fall, shrink, self.weight, rows, keys, sight)
        self.weight.mul_(shrink).add_(p.sum(3, keepdim=True))
        self.out.mul_(shrink).add_(_times(p, v))
        self.peak.copy_(higher)


@dataclass(frozen=True)
class _Carried:
    """What statistics need of each row, under the weights exp(s − peak); x is a key's place relative to the query."""

    heat: Tensor  # Σ p (s − peak)
    square: Tensor  # Σ p²
    span: Tensor  # Σ p |x|
    first: Tensor  # Σ p x
    second: Tensor  # Σ p x²

    def of(self, rows: slice) -> _Carried:
        return _Carried(*(x[:, :, rows] for x in (self.heat, self.square, self.span, self.first, self.second)))

    def add(
        self, p: Tensor, s: Tensor, fall: Tensor, shrink: Tensor, weight: Tensor, rows: slice, keys: slice,
        sight: _Sight,
    ) -> None:  # fmt: skip
        """One block of keys: their p, s − peak, and how far the peak rose since the last (`fall`, never positive)."""
        self.heat.addcmul_(fall, weight).mul_(shrink).add_((p * s).sum(3, keepdim=True))
        self.square.mul_(shrink.square()).add_(torch.linalg.vector_norm(p, dim=3, keepdim=True).square_())
        place = torch.arange(keys.stop - keys.start, device=p.device, dtype=p.dtype)
        total, first, second = (p @ torch.stack([torch.ones_like(place), place, place.square()], dim=1)).unbind(3)
        base = keys.start - torch.arange(rows.start, rows.stop, device=p.device, dtype=p.dtype) - (sight.n - sight.m)
        leaning = (first + base * total)[..., None]
        self.first.mul_(shrink).add_(leaning)
        self.second.mul_(shrink).add_((second + base * (2 * first + base * total))[..., None])
        far = torch.where(base >= 0, 1.0, -1.0)[:, None] * leaning  # right where all keys lie on one side
        among = slice(*_ends(rows, keys, sight))
        if among.start < among.stop:
            away = (base[among, None] + place).abs_()
            far[:, :, among] = (p[:, :, among] * away).sum(3, keepdim=True)
        self.span.mul_(shrink).add_(far)

    def of_rows(self, weight: Tensor) -> Tensor:
        """(5, heads, S, rows, 1): span, entropy, variance of the place, largest probability, effective support."""
        first = self.first / weight
        return torch.stack(
            [
                self.span / weight,
                weight.log() - self.heat / weight,
                (self.second / weight - first.square()).clamp_min(0),
                1 / weight,
                weight.square() / self.square,
            ]
        )


def _ends(rows: slice, keys: slice, sight: _Sight) -> tuple[int, int]:
    """Which of `rows`, counted from their first, stand among `keys`."""
    offset = sight.m - sight.n - rows.start
    length = rows.stop - rows.start
    return min(max(keys.start + offset, 0), length), min(max(keys.stop + offset, 0), length)


def _row_gradients(
    q: Tensor, dout: Tensor, lse: Tensor, delta: Tensor, keys: Tensor, values: Tensor, dk: Tensor, dv: Tensor,
    sight: _Sight, some: slice, rows: slice,
) -> Tensor:  # fmt: skip
    """dq / scale of some rows; what they give to keys and values is added to `dk` and `dv`."""
    dq = torch.zeros_like(q)
    level = torch.where(lse == -torch.inf, torch.inf, lse)[..., None]
    for block in sight.blocks(rows):
        near = sight.near(rows, block)
        local = slice(near.start - rows.start, near.stop - rows.start)
        k, v = keys[:, block].to(q.dtype), values[:, block].to(q.dtype)
        p = _times(q[:, :, local], k.mT).sub_(level[:, :, local]).exp_()
        hidden = sight.mask(near, block, some, q)
        if hidden is not None:
            p[:, :, : hidden.shape[2]].masked_fill_(hidden, 0.0)
        dv[:, block] += _over_rows(p, dout[:, :, local])
        ds = _times(dout[:, :, local], v.mT).sub_(delta[:, :, local, None]).mul_(p)
        dq[:, :, local] += _times(ds, k)
        dk[:, block] += _over_rows(ds, q[:, :, local])
    return dq


def _means(rows_of: Tensor, lse: Tensor) -> Tensor:
    """(5, R, S) over rows that attend to anything; 0 where none does."""
    return rows_of.sum(3) / (lse != -torch.inf).sum(2).clamp_min(1)


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """(R, S, M, a) by (R, a, b): heads that share a matrix are rows of one product."""
    return (rows.flatten(1, 2) @ matrix).view(*rows.shape[:3], matrix.shape[2])


def _over_rows(left: Tensor, right: Tensor) -> Tensor:
    """(R, S, M, a) and (R, S, M, b) to (R, a, b), summed over S and M."""
    return left.flatten(1, 2).mT @ right.flatten(1, 2)
