"""What bundles took here, as text: for `toolkit bench` and `toolkit compare --measure`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.cli.output import EXTRAPOLATED, say

if TYPE_CHECKING:
    from toolkit.stopwatch import Timed

__all__ = ["show_times"]


def show_times(found: Sequence[Timed]) -> None:
    """Each bundle's time here, how it compares with the first, and with what was estimated."""
    from toolkit import units
    from toolkit.stopwatch import ratio

    turns = ", in turns" if len(found) > 1 else ""
    say(f"on {found[0].machine}{turns}: median of nine loads [second, eighth: 96 %]")
    for one in found:
        say(f"{one.bundle}: {one.ran}, threads: {one.threads}")
        say(f"  {units.seconds(one.latency_s)} {units.interval('latency_s', one.interval_s)} a sample, "
            f"{len(one.runs_s)} runs, one in twenty over {units.seconds(one.slow_s)}; "
            f"{units.seconds(one.first_s)} to load and answer first")  # fmt: skip
        if one is not found[0]:
            times_of, (low, high) = ratio(one, found[0])
            say(f"  {times_of:.3g}x [{low:.3g}, {high:.3g}] the time of {found[0].bundle}")
        value, *ends = one.estimate_s
        said = f"estimate for {one.stack}: {units.seconds(value)} {units.interval('latency_s', ends)}"
        where = "this time is inside" if one.predicted else "this time is outside"
        say(f"  {said}: {f'not to be compared, {one.incomparable}' if one.incomparable else where}")
        if one.extrapolated:
            say(f"  {EXTRAPOLATED}")
    for stack, provenance in dict.fromkeys((one.stack, one.provenance) for one in found):
        say(f"{stack}: {provenance}")
