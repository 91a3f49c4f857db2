"""Gaussian elimination over the integers modulo a prime."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["kernel_modulo", "pivots_modulo"]


def pivots_modulo(matrix: npt.NDArray[np.int64], p: int) -> tuple[int, list[int]]:
    """The rank modulo a prime p < 2**31 and the columns that the ones before them do not span."""
    columns = _reduced(matrix, p)[1]
    return len(columns), columns


def kernel_modulo(matrix: npt.NDArray[np.int64], p: int) -> npt.NDArray[np.int64]:
    """A basis, as rows [n - rank, n], of the x with matrix x = 0 modulo a prime p < 2**31."""
    reduced, columns = _reduced(matrix, p)
    free = [c for c in range(matrix.shape[1]) if c not in set(columns)]
    basis = np.zeros((len(free), matrix.shape[1]), dtype=np.int64)
    for row, column in enumerate(free):
        basis[row, column] = 1
        basis[row, columns] = -reduced[: len(columns), column] % p
    return basis


def _reduced(matrix: npt.NDArray[np.int64], p: int) -> tuple[npt.NDArray[np.int64], list[int]]:
    """The reduced row echelon form and its pivot columns. Entries stay below p < 2**31, products below 2**62."""
    rows, columns = matrix.copy() % p, []
    rank = 0
    for column in range(rows.shape[1]):
        below = np.flatnonzero(rows[rank:, column])
        if not len(below):
            continue
        pivot = rank + int(below[0])
        rows[[rank, pivot]] = rows[[pivot, rank]]
        rows[rank] = rows[rank] * pow(int(rows[rank, column]), -1, p) % p
        others = np.flatnonzero(rows[:, column])
        others = others[others != rank]
        rows[others] = (rows[others] - rows[others, column][:, None] * rows[rank]) % p
        columns.append(column)
        rank += 1
        if rank == len(rows):
            break
    return rows, columns
