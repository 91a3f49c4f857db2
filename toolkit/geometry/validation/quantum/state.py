"""Is it a state, does it obey the uncertainty relation, and do local operations leave its entanglement alone?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_square
from toolkit.geometry.core.quantum.state_space.checks import require_density, require_hermitian, require_state
from toolkit.geometry.core.quantum.state_space.entanglement import concurrence, negativity
from toolkit.geometry.core.quantum.state_space.measurement import measure_observable
from toolkit.geometry.core.quantum.state_space.spaces import density_matrix
from toolkit.geometry.types import CheckReport

__all__ = ["LocalRound", "check_entanglement_monotonicity", "check_normalization", "verify_uncertainty_relations"]


@dataclass(frozen=True)
class LocalRound:
    """One round of local operations and classical communication.

    One party measures: for each outcome it applies its Kraus operator, and the others each a channel of their own.

    Args:
        party: Which factor measures.
        kraus: Its operators, [d, d] each, one for each outcome.
        answers: For each outcome, by factor the Kraus operators of the channel that this factor applies.
    """

    party: int
    kraus: Sequence[Tensor]
    answers: Sequence[dict[int, Sequence[Tensor]]]


def check_normalization(state: Tensor, tol: float = 1e-10, *, density: bool = False) -> CheckReport:
    """|psi| = 1; or, with `density`, trace 1, Hermitian, and no eigenvalue below -tol. The worst of the batch decides.

    Args:
        state: Ket [*B, d], or matrix [*B, d, d] with `density`.
        tol: What each may be off by.
        density: Which of the two it is.

    Raises:
        GeometryError: values that are not finite, or a matrix that is not square.
    """
    if not density:
        require_finite(state, "the ket")
        off = float((torch.linalg.vector_norm(state, dim=-1) - 1).abs().max())
        return CheckReport(off <= tol, off, tol, {"norm_error": off})
    require_square(state, "the density matrix")
    trace = float((state.diagonal(dim1=-2, dim2=-1).sum(-1) - 1).abs().max())
    asymmetry = float((state - state.mH).abs().max())
    below = max(0.0, -float(torch.linalg.eigvalsh((state + state.mH) / 2).min()))
    worst = max(trace, asymmetry, below)
    detail = {"trace_error": trace, "hermiticity_error": asymmetry, "negative_eigenvalue": below}
    return CheckReport(worst <= tol, worst, tol, detail)


def verify_uncertainty_relations(
    state: Tensor, observables: tuple[Tensor, Tensor], tol: float = 1e-10, *, density: bool = False
) -> CheckReport:
    """Robertson's dA dB >= |<[A, B]>| / 2, and Schroedinger's form, which adds the covariance.

    The value is the smallest slack of Schroedinger's form, var A var B - |<[A, B]>|^2 / 4 - cov^2, which every state
    has >= 0. On a truncated space [x, p] is not i hbar: keep the state away from the last level.

    Args:
        state: Ket [*B, d], or density matrix [*B, d, d] with `density`.
        observables: Hermitian [d, d] each.
        tol: The slack may be this far below 0, relative to var A var B or 1.
        density: Which of the two the state is.

    Raises:
        GeometryError: no state, or an observable that is not Hermitian.

    Source: Robertson 1929; Schroedinger 1930.
    """
    require_state(state, density=density)
    a, b = (require_hermitian(observable).to(state.dtype) for observable in observables)
    first, second = (measure_observable(state, observable, density=density) for observable in (a, b))
    rho = state if density else density_matrix(state)
    product = torch.einsum("...ij,jk,...ki->...", rho, a, b.expand(rho.shape))
    commutator = product.imag  # <[A, B]> = 2 i Im <AB>
    covariance = product.real - first.mean * second.mean
    spread = first.variance * second.variance
    robertson = spread.sqrt() - commutator.abs()
    schroedinger = spread - commutator.square() - covariance.square()
    limit = -tol * max(1.0, float(spread.max()))
    slack = float(schroedinger.min())
    detail = {
        "robertson_slack": float(robertson.min()),
        "deviation_product": float(spread.sqrt().max()),
        "bound": float(commutator.abs().max()),
    }
    return CheckReport(slack >= limit, slack, limit, detail)


def check_entanglement_monotonicity(
    operation: Sequence[Tensor] | Sequence[LocalRound], state: Tensor, dims: Sequence[int], tol: float = 1e-9
) -> CheckReport:
    """Negativity, and the concurrence of two qubits, must not rise under local operations.

    Whether a list of Kraus operators is local is read from the operators: each must be a tensor product, which is
    sufficient. Other operations are reported as not LOCC, and the check fails; `detail` says by how much the negativity
    rose all the same.

    Args:
        operation: Kraus operators [d, d] of the whole, whose sum K† K is 1; or rounds of `LocalRound`.
        state: Density matrix [d, d].
        dims: The factors; the cut lies after the first.
        tol: How much a measure may rise.

    Returns:
        The value is the larger rise of the two measures.

    Raises:
        GeometryError: the operators do not preserve the trace, or the state is none.

    Source: Vidal and Werner 2002; Horodecki et al. 2009, section 15.
    """
    require_density(state)
    if not operation:
        raise GeometryError("an operation without Kraus operators", hint="the identity is [eye(d)]")
    size = prod(dims)
    kraus: list[Tensor] = [torch.eye(size, dtype=state.dtype)]
    for item in operation:
        if isinstance(item, LocalRound):
            kraus = [after @ before for before in kraus for after in _round(item, dims, state.dtype)]
    if not isinstance(operation[0], LocalRound):
        kraus = [item.to(state.dtype) for item in operation if isinstance(item, Tensor)]
    total = require_finite(torch.stack([k.mH @ k for k in kraus]).sum(0), "the sum of K† K")
    off = float((total - torch.eye(size, dtype=state.dtype)).abs().max())
    if off > 1e-9:
        raise GeometryError(f"the Kraus operators miss the identity by {off:.3g}", hint="sum K† K must be 1")
    excess = 0.0 if isinstance(operation[0], LocalRound) else max(_beyond_product(k, dims) for k in kraus)
    local = excess <= 1e-9
    after = torch.stack([k @ state @ k.mH for k in kraus]).sum(0)
    rises = {"negativity_rise": float(negativity(after, dims) - negativity(state, dims))}
    if tuple(dims) == (2, 2):
        rises["concurrence_rise"] = float(concurrence(after) - concurrence(state))
    worst = max(rises.values())
    detail = {**rises, "locc": local, "before": float(negativity(state, dims)), "after": float(negativity(after, dims))}
    return CheckReport(local and worst <= tol, worst, tol, detail)


def _round(item: LocalRound, dims: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    if len(item.kraus) != len(item.answers):
        raise GeometryError(
            f"{len(item.kraus)} outcomes with {len(item.answers)} answers", hint="one answer for each outcome"
        )
    whole = []
    for measured, answer in zip(item.kraus, item.answers, strict=True):
        if item.party in answer:
            raise GeometryError(f"factor {item.party} answers itself", hint="only the other factors answer")
        products = [torch.ones(1, 1, dtype=dtype)]
        for factor, d in enumerate(dims):
            own = [measured] if factor == item.party else answer.get(factor, [torch.eye(d)])
            products = [torch.kron(left, right.to(dtype)) for left in products for right in own]
        whole += products
    return whole


def _beyond_product(kraus: Tensor, dims: Sequence[int]) -> float:
    """How far an operator is from a product over the first cut and all later ones: its second Schmidt coefficient."""
    worst, count = 0.0, len(dims)
    wide = kraus.reshape(*dims, *dims)
    for factor in range(count):
        rows = wide.movedim((factor, count + factor), (0, 1)).reshape(dims[factor] ** 2, -1)
        values = torch.linalg.svdvals(rows)
        if len(values) > 1:
            worst = max(worst, float(values[1] / values[0].clamp(min=1e-300)))
    return worst
