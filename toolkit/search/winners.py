"""Of many candidates, those that come into an archive with one elite a cell, all at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.search.columns import Columns
from toolkit.search.genomes import Genome, genome_id
from toolkit.search.incoming import Incoming

__all__ = ["is_preferred", "winners"]

Rows = NDArray[np.intp]


def winners(columns: Columns, incoming: Incoming, cell: Rows, valid: NDArray[np.bool_]) -> Rows:
    """Of each cell the one row, if any, that beats its elite and every other row.

    Order: lower violation, higher score, smaller id. Ids are taken only where all else is equal.

    Args:
        cell: (k,) of each row; its slot as well, as there is one a cell.
        valid: (k,) rows that take part.
    """
    violation, score = columns.violation[cell], columns.score[cell]
    beats = (incoming.violation < violation) | ((incoming.violation == violation) & (incoming.score >= score))
    rows = np.flatnonzero(beats & valid)
    if len(rows) > 1:
        rows = rows[np.lexsort((-incoming.score[rows], incoming.violation[rows], cell[rows]))]
        rows = _best_of_each_cell(incoming, rows, cell[rows])
    ties = (incoming.violation[rows] == violation[rows]) & (incoming.score[rows] == score[rows])
    if not ties.any():
        return rows
    stays = [not tie or genome_id(incoming.genomes[row]) < columns.id_of(int(cell[row]))
             for row, tie in zip(rows.tolist(), ties, strict=True)]  # fmt: skip
    return np.array([row for row, is_kept in zip(rows.tolist(), stays, strict=True) if is_kept], np.intp)


def is_preferred(violation: float, score: float, genome: Genome, columns: Columns, cell: int) -> bool:
    """Whether one candidate beats the elite of its cell, in the same order."""
    there = columns.violation[cell]
    if violation != there:
        return bool(violation < there)
    reached = columns.score[cell]
    return bool(score > reached) or (bool(score == reached) and genome_id(genome) < columns.id_of(cell))


def _best_of_each_cell(incoming: Incoming, rows: Rows, cell: Rows) -> Rows:
    """The first of each run of `cell` in sorted `rows`; where the next ones equal it, that of the smallest id."""
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    score, violation = incoming.score[rows], incoming.violation[rows]
    best = rows[starts]
    run = np.repeat(starts, np.diff(np.append(starts, len(rows))))
    equal = (score == score[run]) & (violation == violation[run])
    if equal.sum() == len(starts):
        return best
    for position, start in enumerate(starts.tolist()):
        tied = rows[(run == start) & equal]
        if len(tied) > 1:
            best[position] = min(tied, key=lambda row: genome_id(incoming.genomes[row]))
    return best
