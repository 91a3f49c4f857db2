"""Whether a behaviour space is large enough for what comes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import numpy as np

from toolkit.search.behavior import BehaviorSpace
from toolkit.search.measures import Floats

__all__ = ["ClippingWatch"]

_log = logging.getLogger(__name__)
_WATCHED, _TOO_MANY = 200, 0.05
"""Of so many candidates seen last, more clipped than this share are worth a warning."""


class ClippingWatch:
    """Counts candidates outside `space`, and warns once."""

    def __init__(self, space: BehaviorSpace) -> None:
        self._space = space
        self._recent: deque[bool] = deque(maxlen=_WATCHED)
        self._warned = False

    def see(self, clipped: Sequence[bool], measures: Floats) -> None:
        """Of each candidate whether it was clipped, and its raw measures (n, m)."""
        if self._warned:
            return
        self._recent.extend(clipped[-_WATCHED:])
        if len(self._recent) == _WATCHED and any(clipped) and sum(self._recent) > _TOO_MANY * _WATCHED:
            self._warned = True
            outside = measures[np.array(clipped)]
            ends = zip(self._space.measures, outside.min(0), outside.max(0), strict=True)
            ranges = ", ".join(f"{m.name} {low:g} to {high:g} {m.unit}" for m, low, high in ends)
            _log.warning("warning: more than 5 %% of the candidates lie outside the space: %s", ranges)
