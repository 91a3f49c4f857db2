"""The ledger on the command line; see the package's first lines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from targets.errors import ToolkitError
from toolkit.bench.training_cost.ledger import measured, rows
from toolkit.bench.training_cost.methods import ablation, names
from toolkit.bench.training_cost.results import Results, record
from toolkit.bench.training_cost.showing import as_document, as_lines, as_markdown
from toolkit.cache import cache_folder


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.bench.training_cost",
        description="What each method of training saves at equal quality, beside what was claimed for it.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--seeds", type=int, help="paired runs of each (10, and all that came with the toolkit)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--results", type=Path, help="folder that keeps the runs (in the cache folder)")
    parser.add_argument("--fresh", action="store_true", help="do not use the runs that came with the toolkit")
    parser.add_argument("--recorded", action="store_true", help="show what was measured before, and measure nothing")
    parser.add_argument("--record", action="store_true", help="write the runs to where those lie (for developers)")
    parser.add_argument("--markdown", action="store_true", help="print the table of toolkit/training/README.md")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    if min(given.jobs, 1 if given.seeds is None else given.seeds) < 1:
        parser.error("--seeds and --jobs are 1 or more")
    if given.recorded and (given.fresh or given.record):
        parser.error("--recorded measures nothing: leave out --fresh and --record")
    try:
        wanted = [ablation(name).name for name in given.names or names()]
    except ToolkitError as error:
        parser.error(f"{error.problem}; {error.hint}")
    results = Results(given.results or cache_folder() / "training_cost", given.fresh)
    runs = []
    for run in measured(wanted, given.seeds, results, given.device, 0 if given.recorded else given.jobs):
        runs.append(run)
        if not given.recorded:
            print(f"{run.ablation}: {run.arm}, seed {run.seed}", file=sys.stderr, flush=True)
    if given.record:
        for name in wanted:
            record(ablation(name), [run for run in runs if run.ablation == name])
    found = list(rows(wanted, runs, given.device))
    if given.json:
        print(json.dumps(as_document(found), indent=1))
        return 0
    for line in as_markdown(found) if given.markdown else as_lines(found):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
