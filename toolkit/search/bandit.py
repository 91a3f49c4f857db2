"""Which of several arms to pull next. Source: UCB1-tuned, Auer, Cesa-Bianchi, Fischer 2002."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log, sqrt

__all__ = ["UCB1Tuned"]

_MOST_VARIANCE = 0.25  # of anything between 0 and 1


class UCB1Tuned:
    """Arms with rewards from 0 to 1; how uncertain an arm is depends on how its rewards vary.

    A pull whose reward is not known yet counts as a pull, so that many can be made at once without all going one way.

    Args:
        names: Of the arms; of equal ones the first is pulled.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._pulls: Counter[str] = Counter()
        self._reward: dict[str, float] = dict.fromkeys(names, 0.0)
        self._squares: dict[str, float] = dict.fromkeys(names, 0.0)

    def choose(self, waiting: Counter[str]) -> str:
        """An arm, given how many pulls of each wait for their reward: one never pulled, or the highest bound."""
        pulls = {name: self._pulls[name] + waiting[name] for name in self.names}
        for name in self.names:
            if not pulls[name]:
                return name
        total = sum(pulls.values())
        bounds = {name: self.mean(name) + self._width(name, log(total) / pulls[name]) for name in self.names}
        return max(self.names, key=lambda name: bounds[name])

    def reward(self, name: str, value: float) -> None:
        """Of one pull; of what is no arm, nothing."""
        if name in self._reward:
            self._pulls[name] += 1
            self._reward[name] += value
            self._squares[name] += value * value

    def mean(self, name: str) -> float:
        """Reward a pull; 1 where nothing is known."""
        return self._reward[name] / self._pulls[name] if self._pulls[name] else 1.0

    def _width(self, name: str, share: float) -> float:
        spread = self._squares[name] / max(1, self._pulls[name]) - self.mean(name) ** 2
        return sqrt(share * min(_MOST_VARIANCE, max(0.0, spread) + sqrt(2 * share)))

    @property
    def pulls(self) -> dict[str, int]:
        """Rewarded pulls of each arm."""
        return {name: self._pulls[name] for name in self.names}
