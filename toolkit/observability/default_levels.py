"""Service levels from a file, with thresholds relative to what was recorded before; `levels.yaml` has the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from toolkit.errors import UsageError
from toolkit.fields import checked
from toolkit.observability.service_levels import SLO
from toolkit.yaml_file import read_yaml

__all__ = ["Level", "load_levels"]

_DEFAULTS = Path(__file__).with_name("levels.yaml")


class Level(BaseModel):
    """A service level whose threshold may still depend on a recorded number. `threshold` stands alone, `times` and
    `baseline` stand together."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    metric: str
    op: Literal["<=", ">="]
    threshold: FiniteFloat | None = None
    times: Annotated[FiniteFloat, Field(gt=0)] | None = None
    baseline: str | None = None
    objective: Annotated[float, Field(gt=0, lt=1)]
    window_events: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _one_threshold(self) -> Level:
        if (self.times is None) != (self.baseline is None) or (self.times is None) == (self.threshold is None):
            raise ValueError("a level has either a threshold, or times and a baseline")
        return self

    def against(self, recorded: Mapping[str, float]) -> SLO:
        """The level with a number for its threshold.

        Args:
            recorded: By name, above 0, in SI units; those that this level does not name are not looked at.

        Raises:
            UsageError: its baseline is not there, or is not a number above 0.
        """
        if self.threshold is not None:
            threshold = self.threshold
        else:
            assert self.times is not None
            assert self.baseline is not None
            found = recorded.get(self.baseline)
            if found is None or not 0 < found < inf:
                raise UsageError(
                    f"{self.name}: the baseline {self.baseline} is {found}",
                    hint=f"record {self.baseline}, a number above 0, and hand it in; or leave out this level",
                )
            threshold = self.times * found
        return SLO(name=self.name, metric=self.metric, op=self.op, threshold=threshold, objective=self.objective,
                   window=self.window_events)  # fmt: skip


class _Levels(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    levels: list[Level]


def load_levels(path: Path = _DEFAULTS) -> dict[str, Level]:
    """The levels of a file by name, in its order.

    Raises:
        InvalidInput: the file cannot be read, or a level is not as it should be; every mistake is named with its line.
        UsageError: two levels have one name.
    """
    found: dict[str, Level] = {}
    for level in checked(_Levels, read_yaml(path)).levels:
        if level.name in found:
            raise UsageError(f"{path}: two levels are called {level.name!r}", hint="give each a name of its own")
        found[level.name] = level
    return found
