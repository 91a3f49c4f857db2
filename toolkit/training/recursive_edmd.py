"""Extended dynamic mode decomposition of a stream: recursive least squares that keep their digits.

Layouts: B row of a block; an operator takes columns, so for rows it is x @ K.T.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import torch
from torch import Tensor

from targets.errors import InvalidInput

__all__ = ["RecursiveEDMD"]


class RecursiveEDMD:
    """EDMD of a stream by recursive least squares: the K of all pairs seen, older ones forgotten at a rate.

    Held is not the covariance, which grows without bound where rows are forgotten and nothing new comes, but the square
    root of its inverse: R upper triangular and S, with

        [R | S] ← the upper rows of QR of [√λ R | √λ S; X | Y],      K = argmin |R Kᵀ − S|² + ridge |K|²

    for rows X of observables and Y of the ones to be predicted; a row or a block at a time. The condition number is
    that of the data, not its square, nothing can turn indefinite, and what was forgotten goes to 0.

    Args:
        observables: m, columns of X.
        predicted: Columns of Y; as `observables` where it is not given.
        forgetting: λ in (0, 1], a row's weight after each later block; 1 forgets nothing.
        ridge: > 0: the weight that draws K towards 0; it is not forgotten.
        dtype: Of what is held.

    Raises:
        InvalidInput: a number is out of range.

    Source: Gentleman 1973, J. Inst. Maths Applics 12, 329-336 (rotating rows in); Williams et al. 2015.
    """

    def __init__(
        self,
        observables: int,
        predicted: int | None = None,
        *,
        forgetting: float = 1.0,
        ridge: float = 1e-8,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        predicted = observables if predicted is None else predicted
        if min(observables, predicted) < 1 or not 0 < forgetting <= 1 or not (isfinite(ridge) and ridge > 0):
            raise InvalidInput(
                f"no operator from {observables} to {predicted} with forgetting {forgetting} and ridge {ridge}",
                hint="sizes from 1, forgetting above 0 up to 1, ridge above 0",
            )
        self.forgetting, self.ridge = forgetting, ridge
        self._m = observables
        self._held = torch.zeros(observables, observables + predicted, dtype=dtype)

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take rows in: x (B, observables) or one (observables,), y the same of what follows.

        Raises:
            InvalidInput: shapes do not fit, there is no row, or one is not finite; nothing is taken in then.
        """
        x, y = (rows.detach()[None] if rows.ndim == 1 else rows.detach() for rows in (x, y))
        widths = (self._m, self._held.shape[1] - self._m)
        if not (x.ndim == y.ndim == 2 and (x.shape[1], y.shape[1]) == widths and len(x) == len(y) > 0):
            raise InvalidInput(
                f"rows {tuple(x.shape)} and {tuple(y.shape)} do not fit",
                hint=f"give (B, {widths[0]}) and (B, {widths[1]}), one row at least",
            )
        rows = torch.cat((x, y), 1).to(self._held)
        if not bool(torch.isfinite(rows).all()):
            raise InvalidInput("rows hold NaN or infinity", hint="leave them out: one would spoil all that come after")
        self._held = torch.linalg.qr(torch.cat((self.forgetting**0.5 * self._held, rows)), "r").R[: self._m]

    def state_dict(self) -> dict[str, Tensor]:
        """What all rows so far have come to, to go on from: [R | S]."""
        return {"held": self._held}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what another one of equal sizes held.

        Raises:
            InvalidInput: it is of other sizes, or not finite.
        """
        held = state.get("held")
        if held is None or held.shape != self._held.shape or not bool(torch.isfinite(held).all()):
            raise InvalidInput(
                f"the state is not that of an operator of {tuple(self._held.shape)} numbers",
                hint="load what state_dict gave of a stream of equal sizes",
            )
        self._held = held.detach().clone().to(self._held)

    @property
    def operator(self) -> Tensor:
        """K, (predicted, observables)."""
        still = torch.zeros_like(self._held)
        still.fill_diagonal_(self.ridge**0.5)
        held = torch.linalg.qr(torch.cat((self._held, still)), "r").R[: self._m]
        found: Tensor = torch.linalg.solve_triangular(held[:, : self._m], held[:, self._m :], upper=True)
        return found.t()
