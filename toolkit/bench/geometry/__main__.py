"""The geometry library beside the best plain forms of torch.

    python -m toolkit.bench.geometry [--json] [runtime] [operations]

`runtime`: six steps of the library beside the best plain forms; the goal is twice as fast. `operations`: those that
should take less than a millisecond once they are warm. Both on one thread, in turns; see `goals.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from toolkit.bench.geometry import goals
from toolkit.bench.printing import report

_PARTS: Mapping[str, Callable[[], Iterable[Any]]] = {"runtime": goals.forms, "operations": goals.core_operations}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.geometry", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}; all where left out")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(_PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(_PARTS)}")
    found = {part: _said(part, make()) for part, make in _PARTS.items() if part in (given.parts or _PARTS)}
    report("geometry", found, _judged(found), as_json=given.json)
    return 0


def _said(part: str, rows: Iterable[Any]) -> list[dict[str, Any]]:
    """The rows, after telling whoever waits."""
    print(f"{part} ...", file=sys.stderr, flush=True)
    return list(map(asdict, rows))


def _judged(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[str]:
    """The goals, and whether the worse end of the interval reaches them."""
    for row in found.get("runtime", ()):
        if row["form"] == "library":
            verdict = "reaches" if row["interval"][0] >= goals.FASTER else "MISSES"
            yield f"{row['step']}: {row['times']:.2f}x the best plain form, {verdict} {goals.FASTER}x"
    for row in found.get("operations", ()):
        verdict = "below" if row["interval_s"][1] < goals.UNDER_S else "NOT below"
        yield f"{row['operation']}: {row['median_s'] * 1e3:.2f} ms, {verdict} {goals.UNDER_S * 1e3:.0f} ms"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
