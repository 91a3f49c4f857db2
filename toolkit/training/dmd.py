"""Dynamic mode decomposition: the linear map between snapshots and the next ones, and its eigenvalues.

Layouts: a state is a row. K takes columns, so that x' ≈ K x; for rows that is x @ K.T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from targets.errors import InvalidInput

__all__ = ["Modes", "StreamingDMD", "dmd", "edmd"]


@dataclass(frozen=True)
class Modes:
    """Eigenvalues (r,) and modes (n, r) of the operator, complex, the largest eigenvalue first."""

    eigenvalues: Tensor
    modes: Tensor


def dmd(before: Tensor, after: Tensor, *, rank: int | None = None) -> Modes:
    """Exact DMD: with before = U Σ Vᵀ (transposed), eigenpairs (μ, w) of Uᵀ after V Σ⁻¹, modes after V Σ⁻¹ w / μ.

    Args:
        before, after: (snapshots, n) floating point: states, and those that follow each.
        rank: Singular vectors kept, those of the largest values; all that are above rounding where it is not given.

    Raises:
        InvalidInput: shapes differ, there is no snapshot, one is not finite, all are 0, or the rank is out of range.

    Source: Schmid 2010, J. Fluid Mech. 656, 5-28; exact modes: Tu et al. 2014, J. Comput. Dyn. 1, 391-421.
    """
    _refuse(before, after)
    left, values, right = torch.linalg.svd(before.t(), full_matrices=False)
    known = int((values > values[0] * max(before.shape) * torch.finfo(values.dtype).eps).sum())
    if rank is not None and not 1 <= rank <= known:
        raise InvalidInput(f"rank {rank} of snapshots that have rank {known}", hint=f"give 1 to {known}")
    r = rank or known
    if not r:
        raise InvalidInput("all snapshots are 0: nothing moves", hint="give states that differ from 0")
    onto = after.t() @ right[:r].t() / values[:r]
    return _modes(left[:, :r].t() @ onto, onto)


def edmd(
    before: Tensor, after: Tensor, dictionary: Callable[[Tensor], Tensor] = lambda x: x, *, ridge: float = 0.0
) -> Tensor:
    """Extended DMD: the K that minimises Σ |ψ(x') − K ψ(x)|² + ridge |K|², (m, m) for m observables ψ.

    Args:
        before, after: (snapshots, n).
        dictionary: (snapshots, n) to (snapshots, m).
        ridge: >= 0; without it snapshots that leave K open give the smallest K.

    Raises:
        InvalidInput: as `dmd`, or ridge < 0.

    Source: Williams, Kevrekidis and Rowley 2015, J. Nonlinear Sci. 25, 1307-1346.
    """
    _refuse(before, after)
    if not ridge >= 0:
        raise InvalidInput(f"ridge {ridge} would push K away from 0", hint="give a number from 0")
    x, y = dictionary(before), dictionary(after)
    if ridge:
        held = ridge**0.5 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        x, y = torch.cat((x, held)), torch.cat((y, torch.zeros_like(held)))
    found: Tensor = torch.linalg.lstsq(x, y, driver="gelsd" if x.device.type == "cpu" else None).solution
    return found.t()


class StreamingDMD:
    """DMD of a stream of large states that lie near a few directions: memory n · rank, whatever the stream's length.

    Orthonormal bases of what came (Q_X) and what followed (Q_Y) grow by what sticks out of them by more than
    `tolerance` of its length (Gram and Schmidt's step, taken twice), and are cut to their `rank` strongest directions
    when they grow beyond (once the pair that made them grow is counted: before, its direction would weigh nothing and
    never stay); in them A = Σ ỹ x̃ᵀ, G_X = Σ x̃ x̃ᵀ and G_Y = Σ ỹ ỹᵀ. Then K = Q_Xᵀ Q_Y A G_X⁺.

    Args:
        rank: Directions kept at most.
        tolerance: In (0, 1).

    Raises:
        InvalidInput: a number is out of range.

    Source: Hemati, Williams and Rowley 2014, Phys. Fluids 26, 111701.
    """

    def __init__(self, rank: int, *, tolerance: float = 1e-10) -> None:
        if rank < 1 or not 0 < tolerance < 1:
            raise InvalidInput(
                f"no stream with rank {rank} and tolerance {tolerance}", hint="rank from 1, tolerance between 0 and 1"
            )
        self.rank, self.tolerance = rank, tolerance
        self._x: Tensor | None = None
        self._y = self._a = self._gx = self._gy = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in one pair of states (n,).

        Raises:
            InvalidInput: they are no vectors of the stream's length, empty, or not finite; nothing is taken in then.
        """
        _refuse(x[None], y[None])
        if x.ndim != 1 or (self._x is not None and len(x) != len(self._x)):
            raise InvalidInput(f"a state of the stream is a vector of one length, not {tuple(x.shape)}",
                               hint="give one pair at a time")  # fmt: skip
        x, y = x.detach().double(), y.detach().double()
        if self._x is None:
            self._x, self._y = x.new_zeros(len(x), 0), x.new_zeros(len(x), 0)
        self._x, grown_x = _extended(self._x, x, self.tolerance)
        self._y, grown_y = _extended(self._y, y, self.tolerance)
        self._gx, self._gy = _padded(self._gx, grown_x, grown_x), _padded(self._gy, grown_y, grown_y)
        self._a = _padded(self._a, grown_y, grown_x)
        in_x, in_y = self._x.t() @ x, self._y.t() @ y
        self._gx = self._gx + in_x.outer(in_x)
        self._gy = self._gy + in_y.outer(in_y)
        self._a = self._a + in_y.outer(in_x)
        self._cut()

    @property
    def modes(self) -> Modes:
        """Of all pairs seen.

        Raises:
            InvalidInput: none was, or all states were 0.
        """
        if self._x is None or not self._x.shape[1]:
            raise InvalidInput("the stream has no modes yet", hint="update it with states that differ from 0")
        onto = self._a @ torch.linalg.pinv(self._gx, hermitian=True)
        return _modes(self._x.t() @ self._y @ onto, self._y @ onto)

    def _cut(self) -> None:
        assert self._x is not None
        if self._x.shape[1] > self.rank:
            kept = torch.linalg.eigh(self._gx).eigenvectors[:, -self.rank :]
            self._x, self._gx, self._a = self._x @ kept, kept.t() @ self._gx @ kept, self._a @ kept
        if self._y.shape[1] > self.rank:
            kept = torch.linalg.eigh(self._gy).eigenvectors[:, -self.rank :]
            self._y, self._gy, self._a = self._y @ kept, kept.t() @ self._gy @ kept, kept.t() @ self._a


def _modes(small: Tensor, onto: Tensor) -> Modes:
    values, vectors = torch.linalg.eig(small)
    order = values.abs().argsort(descending=True, stable=True)
    values, vectors = values[order], vectors[:, order]
    modes = onto.to(vectors.dtype) @ vectors
    scale = modes.norm(dim=0)
    return Modes(values, modes / torch.where(scale > 0, scale, torch.ones_like(scale)))


def _extended(basis: Tensor, state: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """The basis and the columns that it has afterwards."""
    rest = state - basis @ (basis.t() @ state)
    rest = rest - basis @ (basis.t() @ rest)
    length = float(rest.norm())
    if length > tolerance * float(state.norm()) and basis.shape[1] < len(state):
        basis = torch.cat((basis, (rest / length)[:, None]), 1)
    return basis, basis.shape[1]


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))


def _refuse(before: Tensor, after: Tensor) -> None:
    if before.ndim != 2 or before.shape != after.shape or not before.numel():
        raise InvalidInput(
            f"snapshots {tuple(before.shape)} are not followed by {tuple(after.shape)}",
            hint="give (snapshots, n) twice, one snapshot at least",
        )
    if not bool(torch.isfinite(before).all() and torch.isfinite(after).all()):
        raise InvalidInput("snapshots hold NaN or infinity", hint="leave them out")
