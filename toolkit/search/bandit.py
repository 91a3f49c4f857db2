"""Which of several arms to pull next. Source: UCB1, Auer, Cesa-Bianchi, Fischer 2002."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log, sqrt

__all__ = ["UCB1"]


class UCB1:
    """Arms with rewards from 0 to 1.

    A pull whose reward is not known yet counts as a pull, so that many can be made at once without all going one way.

    Args:
        names: Of the arms; of equal ones the first is pulled.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._pulls: Counter[str] = Counter()
        self._reward: dict[str, float] = dict.fromkeys(names, 0.0)

    def choose(self, waiting: Counter[str]) -> str:
        """An arm, given how many pulls of each wait for their reward: one never pulled, or the highest bound."""
        pulls = {name: self._pulls[name] + waiting[name] for name in self.names}
        for name in self.names:
            if not pulls[name]:
                return name
        total = sum(pulls.values())
        bounds = {name: self.mean(name) + sqrt(2 * log(total) / pulls[name]) for name in self.names}
        return max(self.names, key=lambda name: bounds[name])

    def reward(self, name: str, value: float) -> None:
        """Of one pull; of what is no arm, nothing."""
        if name in self._reward:
            self._pulls[name] += 1
            self._reward[name] += value

    def mean(self, name: str) -> float:
        """Reward a pull; 1 where nothing is known."""
        return self._reward[name] / self._pulls[name] if self._pulls[name] else 1.0

    @property
    def pulls(self) -> dict[str, int]:
        """Rewarded pulls of each arm."""
        return {name: self._pulls[name] for name in self.names}
