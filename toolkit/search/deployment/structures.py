"""What may be taken out of a module: how many of its channels, and how thin its layers may be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

from passes.contract import PassFailed
from passes.program import Level
from targets.stack import Stack
from targets.target import digest_of
from toolkit.search.deployment.making import Workshop
from toolkit.search.genes import Value

__all__ = ["SMALL_BYTES", "STRUCTURE", "Progress", "Structures", "silent", "structures_of"]

Progress = Callable[[str, float], None]

STRUCTURE = ("structure", "prune_ratio", "importance", "rank_error")
"""Genes that decide the float graph."""
_PRUNE_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
_RANK_ERRORS = (0.01, 0.03, 0.1, 0.2)
SMALL_BYTES = 2**20
"""A float graph up to this size is small: each structure is made in about a second, and none has to be guessed."""


@dataclass(frozen=True)
class Structures:
    """Shares of the arithmetic that pruning may take, and shares of a layer's energy that thin layers may lose.

    Args:
        is_each_made: Whether every structure is priced by itself, and not between those at the ends.
    """

    ratios: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    is_each_made: bool = False

    def near(self, config: Mapping[str, Value]) -> list[tuple[dict[str, Value], float]]:
        """Structures that `config` lies between, of those that are made, each with its weight; {} is the whole network.

        What pruning takes of the arithmetic grows with its ratio; ranks fall with the logarithm of their error. Each
        importance takes channels of other layers, and so other weights.
        """
        kind = config.get("structure", "whole")
        ends: list[tuple[dict[str, Value], float]]
        if self.is_each_made:
            ends = [({name: config[name] for name in STRUCTURE if name in config and kind != "whole"}, 1.0)]
        elif kind == "pruned":
            most = max(self.ratios)
            share = float(config["prune_ratio"]) / most
            ends = [({}, 1 - share), (_pruned(most, config["importance"]), share)]
        elif kind == "thin":
            low, high = min(self.errors), max(self.errors)
            share = log(float(config["rank_error"]) / low) / log(high / low) if high > low else 0.0
            ends = [(_thin(low), 1 - share), (_thin(high), share)]
        else:
            ends = [({}, 1.0)]
        return [(end, weight) for end, weight in ends if weight]


def silent(step: str, done: float) -> None:
    """Report no progress."""


def structures_of(workshop: Workshop, stack: Stack, progress: Progress = silent) -> Structures:
    """What the model takes, and comes out of as another one; nothing of a graph, which has lost how its channels are
    tied.

    A layer that has channels left at one ratio has more at a smaller one, and a rank that loses little is there for
    those who may lose more: so only ends are made to know it.
    """
    if workshop.problem.program.level is not Level.TORCH:
        return Structures()

    def made() -> dict[str, Any]:
        ratios = _until_it_works(workshop, stack, [_pruned(r) for r in reversed(_PRUNE_RATIOS)], progress)
        errors = _until_it_works(workshop, stack, [_thin(e) for e in _RANK_ERRORS], progress)
        is_small = len(workshop.floating({}, stack).onnx_bytes) <= SMALL_BYTES
        return asdict(Structures(_PRUNE_RATIOS[:ratios], _RANK_ERRORS[len(_RANK_ERRORS) - errors :], is_small))

    document = workshop.known("structures", [digest_of(stack), _PRUNE_RATIOS, _RANK_ERRORS, SMALL_BYTES], made)
    return Structures(tuple(document["ratios"]), tuple(document["errors"]), document["is_each_made"])


def _until_it_works(
    workshop: Workshop, stack: Stack, structures: Sequence[Mapping[str, Value]], progress: Progress
) -> int:
    """How many are left, the first that the model takes among them."""
    for k, structure in enumerate(structures):
        progress(f"taking something out: {structure['structure']}", k / len(structures))
        if _works(workshop, structure, stack):
            return len(structures) - k
    return 0


def _works(workshop: Workshop, config: Mapping[str, Value], stack: Stack) -> bool:
    """Whether the model takes it, and comes out as another one."""
    try:
        return workshop.floating(config, stack).digest != workshop.floating({}, stack).digest
    except PassFailed:
        return False


def _pruned(ratio: float, importance: Value = "magnitude") -> dict[str, Value]:
    return {"structure": "pruned", "prune_ratio": ratio, "importance": importance}


def _thin(error: float) -> dict[str, Value]:
    return {"structure": "thin", "rank_error": error}
