"""Three clocks of one training: fast work at each step, medium and slow work at multiples, in this order."""

from __future__ import annotations

from dataclasses import dataclass

from targets.errors import InvalidInput

__all__ = ["Timescales"]


@dataclass(frozen=True)
class Timescales:
    """Steps between two calls of each kind of work.

    Raises:
        InvalidInput: below 1, or one does not divide the next.
    """

    fast: int = 1
    medium: int = 100
    slow: int = 1000

    def __post_init__(self) -> None:
        if self.fast < 1 or self.medium < 1 or self.medium % self.fast or self.slow < 1 or self.slow % self.medium:
            raise InvalidInput(
                f"timescales {self.fast}, {self.medium}, {self.slow} do not nest",
                hint="medium is a multiple of fast, slow a multiple of medium",
            )

    def due(self, done: int) -> tuple[str, ...]:
        """What is due after `done` steps: of "fast", "medium", "slow", those that it is a multiple of; none at 0."""
        if done < 1:
            return ()
        return tuple(name for name in ("fast", "medium", "slow") if done % getattr(self, name) == 0)
