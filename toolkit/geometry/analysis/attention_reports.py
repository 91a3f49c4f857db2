"""Attention as a graph: how evenly each head spreads its weight, how many patterns it knows, whether it collapsed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = ["HeadReport", "head_reports"]

_ONE_KEY = 0.99  # of a query's weight: the rest moves its answer by no more than 1 % of the values' diameter
_SPECTRA = 2  # samples whose weights are decomposed, which takes the cube of their length
_LONGEST = 256  # tokens of which eigenvalues are found in about a tenth of a second


@dataclass(frozen=True, kw_only=True)
class HeadReport:
    """One head over all samples. Queries that may see a single key have no choice and are left out.

    Args:
        head: Its number.
        entropy_share: Of the entropy of an even spread over the keys that a query may see, in [0, 1], the mean.
        from_even: Total variation distance to that even spread, the mean: 0 where the head takes the plain mean.
        one_key_share: Of the queries, those that give 99 % of their weight to one key.
        same_key_share: Of those, the ones whose key is the most frequent one of all.
        rank: exp of the entropy of the singular values of the weights: 1 where all queries ask the same. This and what
            follows is the mean over the first two samples.
        spectral_gap: 1 - |second eigenvalue| of the weights as a Markov chain: near 0 groups of tokens keep to
            themselves; None where the weights are not square, or of more than 256 tokens.
        curvature: The mean Forman curvature of the graph of weights above half of an even spread; None where there
            are no such edges. Very negative values are bottlenecks.
    """

    head: int
    entropy_share: float
    from_even: float
    one_key_share: float
    same_key_share: float
    rank: float
    spectral_gap: float | None
    curvature: float | None


def head_reports(weights: Tensor, allowed: Tensor) -> tuple[HeadReport, ...]:
    """A report for each head.

    Args:
        weights: [S, h, N, M], what each of N queries gives to each of M keys, rows summing to one; S samples.
        allowed: bool, broadcast to that: which keys a query may see.

    Raises:
        GeometryError: another shape, rows that do not sum to one, or no query with a choice.
    """
    if weights.ndim != 4 or weights.numel() == 0:
        raise GeometryError(f"attention of shape {tuple(weights.shape)}", hint="give [samples, heads, queries, keys]")
    p = require_finite(weights, "the attention").double()
    sums = p.sum(-1)
    worst = float(sums.flatten()[(sums - 1).abs().argmax()])
    # a float32 softmax of M terms, each rounded once and divided once
    if abs(worst - 1) > 4 * p.shape[-1] * torch.finfo(torch.float32).eps:
        raise GeometryError(f"a row of the attention sums to {worst:.9g}", hint="pass weights after softmax")
    seen = allowed.expand_as(p)
    count = seen.sum(-1)
    choice = count > 1
    if not bool(choice.any()):
        raise GeometryError("no query may see more than one key", hint="an attention over one token says nothing")
    return tuple(_of_head(number, p[:, number], seen[:, number], choice[:, number]) for number in range(p.shape[1]))


def _of_head(number: int, p: Tensor, seen: Tensor, choice: Tensor) -> HeadReport:
    from kernels.effective_rank import effective_rank

    count = seen.sum(-1).clamp(min=1)
    even = seen.double() / count.unsqueeze(-1)
    entropy = torch.special.entr(p).sum(-1)[choice] / count[choice].double().log()
    top, key = (found[choice] for found in p.max(-1))
    sure = key[top >= _ONE_KEY]
    first = p[:_SPECTRA]
    gap, curvature = _graph(first)
    return HeadReport(
        head=number,
        entropy_share=float(entropy.mean().clamp(max=1)),
        from_even=float(0.5 * (p - even).abs().sum(-1)[choice].mean()),
        one_key_share=len(sure) / len(key),
        same_key_share=float(sure.bincount().max()) / len(sure) if len(sure) else 0.0,
        rank=float(effective_rank(first, kind="entropy").mean()),
        spectral_gap=gap,
        curvature=curvature,
    )


def _graph(p: Tensor) -> tuple[float | None, float | None]:
    from toolkit.geometry.neural.attention.metrics import forman_curvature

    if p.shape[-1] != p.shape[-2] or p.shape[-1] < 2:
        return None, None
    found = forman_curvature(p)
    curvature = float(found.mean()) if len(found) else None
    if p.shape[-1] > _LONGEST:
        return None, curvature
    moduli = torch.linalg.eigvals(p).abs().sort(-1, descending=True).values
    return float((1 - moduli[:, 1]).clamp(0, 1).mean()), curvature
