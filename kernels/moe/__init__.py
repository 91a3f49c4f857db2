"""A mixture of experts: a router chooses one or two for each token, and only those are computed."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.activation import check_activation
from kernels.exporting import exporting
from kernels.moe import operators, reference, routing
from kernels.moe.layers import Layers
from kernels.moe.routing import Routing

__all__ = ["Mixture", "Routing", "experts", "moe", "route"]


class Mixture(NamedTuple):
    """What a mixture answers, and what its router did.

    `balance` is the term of the loss that spreads tokens over experts, 1 where they are spread evenly; `chosen` is
    int64 (tokens, k).
    """

    out: Tensor
    balance: Tensor
    chosen: Tensor


def route(
    logits: Tensor,
    k: int = 1,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    hard: bool = True,
) -> Routing:
    """Choose k experts for each token by Gumbel-softmax, straight through, and say how evenly they are used.

    Args:
        logits: (tokens, experts) floating point.
        k: 1 or 2.
        temperature: What noisy logits are divided by before their softmax; positive.
        generator: Draws the Gumbel noise, on the device of `logits`; None: no noise, as when a model is evaluated.
        hard: Gates are 1/k, with the gradient of the softmax behind them (straight through); else the softmax itself.

    Returns:
        chosen, int64 (tokens, k), the likeliest first; gates (tokens, k), and balance, a scalar: the number of experts
        times the sum over them of their share of the choices times their mean probability (without noise), whose
        gradient goes through the probability. Both are float32, float64 for float64; balance is 0 without tokens.

    Raises:
        ValueError: `logits` has other than two axes, k is not 1 or 2 or there are fewer experts, the temperature is not
            positive, or noise is asked for while a model is exported.
        TypeError: `logits` is not floating point.

    Source: Jang, Gu and Poole 2017, arXiv:1611.01144; Fedus, Zoph and Shazeer 2022, arXiv:2101.03961 (balance).
    """
    if logits.ndim != 2 or k not in (1, 2) or logits.shape[1] < k:
        raise ValueError(f"logits must be (tokens, experts>=k) and k 1 or 2, got {tuple(logits.shape)} and {k}")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")
    if generator is not None and exporting():
        raise ValueError("a model is exported without noise: evaluate it with generator=None")
    return routing.route(logits, routing.gumbel(logits, generator), k, temperature, hard)


def experts(
    x: Tensor,
    chosen: Tensor,
    gates: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    *,
    b_in: Tensor | None = None,
    b_out: Tensor | None = None,
    activation: str | None = "gelu",
) -> Tensor:
    """What the chosen experts say to each token, by their gates: Σ_j gate_j (w_out activation(w_in x + b_in) + b_out).

    Nothing is dropped, however many tokens choose one expert; one that nobody chose has zero gradients. Differentiable
    once, in x, the gates, weights and biases.

    Args:
        x: (tokens, d) floating point.
        chosen: int64 (tokens, k), of 0..E-1, different ones in a row.
        gates: (tokens, k) floating point.
        w_in: (E, hidden, d) in the dtype of x, as E `nn.Linear` have it.
        w_out: (E, d, hidden).
        b_in, b_out: (E, hidden) and (E, d), both or neither.
        activation: None, "relu", "gelu" (with erf) or "silu".

    Returns:
        (tokens, d) in the dtype of x. Sums are in float32, in float64 for float64.

    Raises:
        ValueError: shapes, dtypes or devices do not match, the activation is unknown, or an expert was chosen that
            there is not (Triton's form, which never waits for the device, does not look).
        TypeError: x is not floating point, or `chosen` not int64.
        MemoryError: the rows by expert do not fit the device.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.

    Source: Shazeer et al. 2017, arXiv:1701.06538; Gale et al. 2022, arXiv:2211.15841 (rows sorted, none dropped).
    """
    _check(x, chosen, gates, w_in, w_out, b_in, b_out)
    name = check_activation(activation)
    if exporting():
        return reference.experts(x, chosen, gates, Layers(w_in, b_in, w_out, b_out, name))
    given = (x, gates, w_in, b_in, w_out, b_out)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    return operators.experts(x, chosen, gates, w_in, b_in, w_out, b_out, name, keep)[0]


def moe(
    x: Tensor,
    logits: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    *,
    b_in: Tensor | None = None,
    b_out: Tensor | None = None,
    k: int = 1,
    activation: str | None = "gelu",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    hard: bool = True,
) -> Mixture:
    """A whole mixture: `route` by the router's logits, then `experts`.

    Args:
        x: (..., d) floating point.
        logits: (..., E), the router's: with a router weight (E, d), `torch.nn.functional.linear(x, weight)`.
        w_in, w_out, b_in, b_out, activation: As for `experts`.
        k, temperature, generator, hard: As for `route`.

    Raises:
        What `route` and `experts` raise.
    """
    rows = x.reshape(prod(x.shape[:-1]), x.shape[-1])
    routed = route(
        logits.reshape(prod(logits.shape[:-1]), logits.shape[-1]),
        k,
        temperature=temperature,
        generator=generator,
        hard=hard,
    )
    if logits.shape[-1] != w_in.shape[0]:
        raise ValueError(f"logits are of {logits.shape[-1]} experts, and w_in holds {w_in.shape[0]}")
    out = experts(rows, routed.chosen, routed.gates, w_in, w_out, b_in=b_in, b_out=b_out, activation=activation)
    return Mixture(out.reshape(x.shape), routed.balance, routed.chosen)


def _check(
    x: Tensor,
    chosen: Tensor,
    gates: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    b_in: Tensor | None,
    b_out: Tensor | None,
) -> None:
    if not x.is_floating_point() or chosen.dtype != torch.int64 or not gates.is_floating_point():
        given = f"{x.dtype}, {chosen.dtype}, {gates.dtype}"
        raise TypeError(f"x and gates must be floating point and chosen int64, got {given}")
    if x.ndim != 2 or chosen.ndim != 2 or chosen.shape[0] != x.shape[0] or gates.shape != chosen.shape:
        given = f"{tuple(x.shape)}, {tuple(chosen.shape)}, {tuple(gates.shape)}"
        raise ValueError(f"x must be (tokens, d), chosen and gates (tokens, k), got {given}")
    if w_in.ndim != 3 or w_in.shape[2] != x.shape[1] or w_out.shape != (w_in.shape[0], x.shape[1], w_in.shape[1]):
        given = f"{tuple(w_in.shape)}, {tuple(w_out.shape)}"
        raise ValueError(f"w_in must be (E, hidden, {x.shape[1]}) and w_out (E, {x.shape[1]}, hidden), got {given}")
    if (b_in is None) != (b_out is None):
        raise ValueError("b_in and b_out must both be given, or neither")
    for name, bias, weight in (("b_in", b_in, w_in), ("b_out", b_out, w_out)):
        if bias is not None and bias.shape != weight.shape[:2]:
            raise ValueError(f"{name} must be {tuple(weight.shape[:2])}, got {tuple(bias.shape)}")
    for name, t in (("w_in", w_in), ("w_out", w_out), ("b_in", b_in), ("b_out", b_out)):
        if t is not None and (t.dtype, t.device) != (x.dtype, x.device):
            raise ValueError(f"{name} is {t.dtype} on {t.device} and x {x.dtype} on {x.device}: they must be alike")
    if (chosen.device, gates.device) != (x.device, x.device):
        raise ValueError(f"chosen and gates must be on {x.device}, where x is")
