"""What can be said of an organism without asking a device."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from toolkit.organism.organism import Organism

__all__ = ["statistics"]


def statistics(organism: Organism) -> dict[str, Any]:
    """Components by stage, quantiles of fitness in nats, use of the budget, and the archive's own figures."""
    members = organism.pool.members
    stages = Counter(str(member.component.stage) for member in members)
    fitness = [member.component.fitness for member in members]
    low, middle, high = np.quantile(fitness, (0.0, 0.5, 1.0)).tolist() if fitness else (0.0, 0.0, 0.0)
    found = {
        "components": len(members),
        **{f"components_{stage}": stages[stage] for stage in ("newborn", "settled", "fading")},
        "fitness_min_nats": low, "fitness_median_nats": middle, "fitness_max_nats": high,
        "parameter_bytes": organism.pool.nbytes, "budget_bytes": organism.pool.budget_bytes,
        "phase": organism.phase,
    }  # fmt: skip
    return found if organism.archive is None else {**found, "archived": len(organism.archive)}
