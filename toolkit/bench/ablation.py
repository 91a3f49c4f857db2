"""The ablations of the organism on the command line.

    python -m toolkit.bench.ablation [NAME ...] [--preset smoke|quick|cpu|h100] [--seeds N] [--steps N] [--json]

A8, which holds the search of deployments against other searches, is `python -m toolkit.bench.search`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from targets.errors import ToolkitError

if TYPE_CHECKING:
    from toolkit.bench.ablations.ablation import Ablation
    from toolkit.bench.ablations.presets import Preset
    from toolkit.bench.ablations.results import Kept

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured."""
    from toolkit.bench.ablations.presets import PRESETS
    from toolkit.bench.ablations.results import keep, kept
    from toolkit.bench.ablations.showing import as_document, as_lines, as_markdown
    from toolkit.bench.ablations.table import ablation, names

    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.ablation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--preset", default="cpu", choices=sorted(PRESETS), help="sizes and steps (cpu)")
    parser.add_argument("--seeds", type=int, help="paired runs of each (10; h100 and quick 5, smoke 1)")
    parser.add_argument("--first-seed", type=int, default=0, help="of the seeds (0)")
    parser.add_argument("--steps", type=int, help="updates on text, in place of the preset's")
    parser.add_argument("--text", help="a text file to learn from, in place of Python's documentation")
    parser.add_argument("--kept", action="store_true", help="show what came with the toolkit; measure nothing")
    parser.add_argument("--record", action="store_true", help="write what was measured to where that lies")
    parser.add_argument("--markdown", action="store_true", help="print as toolkit/bench/RESULTS.md has it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    if min(1 if n is None else n for n in (given.seeds, given.steps)) < 1 or given.first_seed < 0:
        parser.error("--seeds and --steps are 1 or more, --first-seed 0 or more")
    preset = PRESETS[given.preset]
    preset = replace(preset, steps=given.steps or preset.steps, text=given.text, seeds=given.seeds or preset.seeds)
    try:
        chosen = [ablation(name) for name in given.names or names()]
        found = []
        for what in chosen:
            result = kept(what.name) if given.kept else measured(what, preset, given.first_seed)
            if result is None:
                print(f"{what.name}: nothing is kept", file=sys.stderr)
                continue
            if given.record and not given.kept:
                print(f"kept in {keep(result)}", file=sys.stderr)
            found.append((what, result))
    except ToolkitError as error:
        print(f"error: {error.problem}\nnext: {error.hint}", file=sys.stderr)
        return error.exit_code
    if given.json:
        print(json.dumps([as_document(what, result) for what, result in found], indent=1))
        return 0
    show = as_markdown if given.markdown else as_lines
    for what, result in found:
        print("\n".join(show(what, result)))
    return 0


def measured(what: Ablation, preset: Preset, first_seed: int = 0) -> Kept:
    """All seeds of one ablation, on one thread."""
    import torch

    from toolkit.bench.ablations.results import made_here

    runs: dict[int, Mapping[str, Mapping[str, float]]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed in range(first_seed, first_seed + preset.seeds):
            runs[seed] = what.run(seed, preset)
            print(f"{what.name}: seed {seed}", file=sys.stderr, flush=True)
    finally:
        torch.set_num_threads(threads)
    return made_here(what.name, preset, runs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
