"""Scores of a query and a key: what attention takes the softmax of, and what a tile of keys needs to bound it.

Every score first turns queries and keys into vectors. The last number of a key's vector is added to its logits (masks
live there), and a query's last number is 1. A tile is judged by features, of which its mean is one as well.

    name              logit, up to what is the same for all keys of a query       features
    dot               τ q·k / √m                                                 the vectors themselves
    metric            −(τ / 2√m) (q − k)ᵀ G (q − k),  G = diag(softplus a) + UUᵀ   the vectors themselves
    fidelity          τ (q̂·k̂)²                                                   products of pairs, m (m + 1) / 2
    fidelity_complex  τ |⟨q̂|k̂⟩|², m / 2 complex numbers as two real halves        the density matrix, (m / 2)²
    hyperbolic        −τ arcosh(−⟨q, k⟩) on the hyperboloid                      the vectors themselves

τ is positive and learned, one for each head. Nothing here is quantum: "fidelity" is the overlap of unit vectors.

Sources: Vaswani et al. 2017, arXiv:1706.03762 (dot); Nielsen et al. 2024, arXiv:2406.13770 (a learned metric); Nielsen
and Chuang, Quantum Computation and Quantum Information (overlaps); Gulcehre et al. 2018, arXiv:1805.09786 (hyperbolic).
"""

from __future__ import annotations

from math import e, log, sqrt
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from toolkit.errors import GeometryError
from toolkit.models.exporting import exporting

__all__ = ["Score", "ScoreName", "make_score"]

ScoreName = Literal["dot", "metric", "fidelity", "fidelity_complex", "hyperbolic", "born"]

_TINY = 1e-12  # of a squared length: the gradient of the root stays finite at the zero vector
_APART = 1e-6  # of −⟨q, k⟩ − 1: the gradient of arcosh stays finite where two points meet

# Legend: G heads of all samples, T tiles, B tokens in a tile, m numbers of a state


class Score(nn.Module):
    """The dot product, which the others change where they differ.

    Args:
        heads: Each has a temperature of its own.
        width: m, the numbers of a query's or key's state in one head.
    """

    is_linear = True
    """Whether a logit is the inner product of the vectors, so that any attention kernel computes it."""

    is_overlap = False
    """Whether a tile's centre is a density matrix."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.log_tau = nn.Parameter(torch.zeros(heads))

    def tau(self) -> Tensor:
        """(heads, 1, 1)"""
        return self.log_tau.exp()[:, None, None]

    def vectors(self, q: Tensor, k: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """(..., heads, N, m) twice to the vectors of queries and keys, (..., heads, N, E) twice.

        Args:
            scale: Factor on the temperature.
        """
        return _with_one(q * (self.tau() * (scale / sqrt(self.width)))), _with_zero(k)

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        """(..., Q, E) and (..., K, E) to (..., Q, K), with what a key's last number adds."""
        return q @ k.transpose(-1, -2) if self.is_linear else self.bare(q, k) + k[..., -1:].transpose(-1, -2)

    def bare(self, q: Tensor, k: Tensor) -> Tensor:
        """The same without what keys add; nobody else holds the answer."""
        return q[..., :-1] @ k[..., :-1].transpose(-1, -2)

    def write(self, q: Tensor, k: Tensor, added: Tensor, out: Tensor, room: Tensor) -> None:
        """`bare` plus `added` (n, 1, K) into `out` (n, Q, K), without new memory; nothing of it has a gradient.

        Args:
            room: (n, Q, K), written over.
        """
        torch.add(_product(q[..., :-1], k[..., :-1], room), added, out=out)

    def features(self, x: Tensor) -> Tensor:
        """Of queries' or keys' vectors, (..., F)."""
        return x

    def centre(self, mean: Tensor) -> Tensor:
        """The point that stands for a tile, from the mean of its keys' features."""
        return mean

    def coarse(self, f: Tensor, c: Tensor) -> Tensor:
        """Logits of queries (..., Q, F) at centres (..., T, F)."""
        return f @ c.transpose(-1, -2)

    def distances(self, features: Tensor, c: Tensor) -> Tensor:
        """(..., B, F) keys of a tile and (..., F) its centre to (..., B)."""
        return ((features - c.unsqueeze(-2)) ** 2).sum(-1).sqrt()

    def slack(self, f: Tensor, rho: Tensor) -> Tensor:
        """δ (..., Q, T): how far the logarithm of a tile's mean exponential may be above the logit of its centre.

        With z = |f| ρ: logits of a tile differ from their mean by z at most, and Hoeffding's lemma gives z² / 2.
        """
        return _hoeffding(f[..., :-1], rho)  # what is added is the same for all keys

    def condition(self) -> float | None:
        """Largest over smallest eigenvalue of the learned metric, the worst head's; None where there is none."""
        return None


class _Metric(Score):
    """Completing the square: with x̃ = [√a x, Uᵀx] the key's part is k̃·q̃ − |k̃|² / 2; the query's part cancels."""

    def __init__(self, heads: int, width: int, rank: int) -> None:
        super().__init__(heads, width)
        self.diagonal = nn.Parameter(torch.full((heads, width), log(e - 1)))  # softplus of it is 1
        self.factor = nn.Parameter(torch.randn(heads, width, rank) * 0.1)

    def metric(self) -> Tensor:
        """G, (heads, m, m), positive definite."""
        return torch.diag_embed(softplus(self.diagonal)) + self.factor @ self.factor.transpose(-1, -2)

    def condition(self) -> float | None:
        return float(torch.linalg.cond(self.metric().detach()).max())

    def vectors(self, q: Tensor, k: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        q, k = self._flat(q), self._flat(k)
        factor = self.tau() * (scale / sqrt(self.width))
        return _with_one(q * factor), torch.cat([k, -0.5 * factor * (k * k).sum(-1, keepdim=True)], -1)

    def slack(self, f: Tensor, rho: Tensor) -> Tensor:
        return _hoeffding(f, rho)  # the square of its length differs from key to key

    def _flat(self, x: Tensor) -> Tensor:
        """x̃, (..., heads, N, m + rank): the metric is the identity there."""
        return torch.cat([x * softplus(self.diagonal).sqrt().unsqueeze(-2), x @ self.factor], -1)


class _Fidelity(Score):
    is_linear, is_overlap = False, True

    def vectors(self, q: Tensor, k: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        return _with_one(_unit(q) * (self.tau() * scale).sqrt()), _with_zero(_unit(k))

    def bare(self, q: Tensor, k: Tensor) -> Tensor:
        return _square(q[..., :-1] @ k[..., :-1].transpose(-1, -2))

    def write(self, q: Tensor, k: Tensor, added: Tensor, out: Tensor, room: Tensor) -> None:
        overlap = _product(q[..., :-1], k[..., :-1], room)
        torch.addcmul(added, overlap, overlap, out=out)

    def features(self, x: Tensor) -> Tensor:
        """Products of pairs: their inner product is the squared one of the vectors, and a tile's mean is its density
        matrix."""
        x = x[..., :-1]
        pairs = [x[..., i : i + 1] * x[..., i:] * _weights(self.width - i, x) for i in range(self.width)]
        return torch.cat(pairs, -1)

    def slack(self, f: Tensor, rho: Tensor) -> Tensor:
        return _hoeffding(f, rho)


class _ComplexFidelity(_Fidelity):
    """The first half of a state are real parts, the second imaginary ones."""

    def bare(self, q: Tensor, k: Tensor) -> Tensor:
        kt = k[..., :-1].transpose(-1, -2)
        return _square(q[..., :-1] @ kt) + _square(self._turned(q) @ kt)

    def write(self, q: Tensor, k: Tensor, added: Tensor, out: Tensor, room: Tensor) -> None:
        super().write(q, k, added, out, room)
        overlap = _product(self._turned(q), k[..., :-1], room)
        out.addcmul_(overlap, overlap)

    def _turned(self, q: Tensor) -> Tensor:
        """i times the states."""
        half = self.width // 2
        return torch.cat([-q[..., half : 2 * half], q[..., :half]], -1)

    def features(self, x: Tensor) -> Tensor:
        """|x⟩⟨x|, Hermitian: its diagonal, and real and imaginary parts above it times √2."""
        half = self.width // 2
        re, im = x[..., :half], x[..., half : 2 * half]
        rows = []
        for i in range(half):
            a, b = re[..., i : i + 1], im[..., i : i + 1]
            rows.append((a * re[..., i:] + b * im[..., i:]) * _weights(half - i, x))
            if i + 1 < half:
                rows.append((a * im[..., i + 1 :] - b * re[..., i + 1 :]) * sqrt(2))
        return torch.cat(rows, -1)


class _Hyperbolic(Score):
    """Points [√(1 + |x|²), x]. A query's vector is [τ, x₀, −x, 1], a key's [0, x₀, x, what is added].

    A tile's centre is the mean, back on the hyperboloid; no key is further from it than ρ, so no logit differs from
    the centre's by more than τ ρ.
    """

    is_linear = False

    def vectors(self, q: Tensor, k: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        tau = torch.ones_like(q[..., :1]) * self.tau() * scale
        return _with_one(torch.cat([tau, _raised(q), -q], -1)), torch.cat(
            [torch.zeros_like(k[..., :1]), _raised(k), k, torch.zeros_like(k[..., :1])], -1
        )

    def bare(self, q: Tensor, k: Tensor) -> Tensor:
        return self.coarse(q, k)

    def write(self, q: Tensor, k: Tensor, added: Tensor, out: Tensor, room: Tensor) -> None:
        inner = _product(q[..., 1:-1], k[..., 1:-1], room)
        torch.addcmul(added, _arcosh_into(out, inner), -q[..., :1], out=out)

    def coarse(self, f: Tensor, c: Tensor) -> Tensor:
        inner = f[..., 1:-1] @ c[..., 1:-1].transpose(-1, -2)
        if _is_ours(inner):
            return _arcosh_into(torch.empty_like(inner), inner).mul_(-f[..., :1])
        return -f[..., :1] * _arcosh(inner)

    def centre(self, mean: Tensor) -> Tensor:
        time, space = mean[..., 1:2], mean[..., 2:-1]
        length = (time * time - (space * space).sum(-1, keepdim=True)).clamp_min(_TINY).sqrt()
        return mean / length

    def distances(self, features: Tensor, c: Tensor) -> Tensor:
        c = c.unsqueeze(-2)
        inner = features[..., 1:2] * c[..., 1:2] - (features[..., 2:-1] * c[..., 2:-1]).sum(-1, keepdim=True)
        return _arcosh(inner).squeeze(-1)

    def slack(self, f: Tensor, rho: Tensor) -> Tensor:
        return f[..., :1] * rho.unsqueeze(-2)


def make_score(name: str, heads: int, width: int, rank: int = 2) -> Score:
    """The score called `name`; "born" takes the unit vectors of "fidelity", and no exponential.

    Args:
        rank: Of the low-rank part of "metric".

    Raises:
        GeometryError: there is no such score, or it takes no states of this width.
    """
    if name not in get_args(ScoreName):
        raise GeometryError(f"there is no score {name!r}", hint=f"known: {', '.join(sorted(get_args(ScoreName)))}")
    if name == "fidelity_complex" and width % 2:
        raise GeometryError(f"{width} real numbers are no complex state", hint="give fidelity_complex an even width")
    if name == "metric":
        return _Metric(heads, width, rank)
    kinds = {"dot": Score, "fidelity_complex": _ComplexFidelity, "hyperbolic": _Hyperbolic}
    return kinds.get(name, _Fidelity)(heads, width)


def _hoeffding(f: Tensor, rho: Tensor) -> Tensor:
    z = (f * f).sum(-1, keepdim=True).sqrt() * rho.unsqueeze(-2)
    return torch.minimum(z, z * z * 0.5)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)


def _with_zero(x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros_like(x[..., :1])], -1)


def _unit(x: Tensor) -> Tensor:
    return x / (x * x).sum(-1, keepdim=True).clamp_min(_TINY).sqrt()


def _weights(count: int, like: Tensor) -> Tensor:
    """1 for the square, √2 for products of two, which a symmetric matrix holds twice."""
    return torch.cat([like.new_ones(1), like.new_full((count - 1,), sqrt(2))])


def _raised(x: Tensor) -> Tensor:
    return ((x * x).sum(-1, keepdim=True) + 1).sqrt()


def _arcosh(x: Tensor) -> Tensor:
    above = (x - 1).clamp_min(_APART)
    return (1 + above + (above * (above + 2)).sqrt()).log()


def _arcosh_into(out: Tensor, x: Tensor) -> Tensor:
    """`_arcosh` of x into `out`; x is written over."""
    above = x.sub_(1).clamp_min_(_APART)
    return torch.mul(above, above, out=out).add_(above, alpha=2).sqrt_().add_(above).log1p_()


def _product(q: Tensor, k: Tensor, room: Tensor) -> Tensor:
    return torch.bmm(q, k.transpose(-1, -2), out=room)


def _square(x: Tensor) -> Tensor:
    return x.square_() if _is_ours(x) else x * x


def _is_ours(x: Tensor) -> bool:
    """Whether what was computed just now may be written over: a CPU waits for memory longer than it calculates."""
    return not (x.requires_grad or exporting())
