"""The ablations of the organism on the command line.

    python -m toolkit.bench.ablation [NAME ...] [--preset smoke|quick|cpu|h100] [--seeds N] [--steps N] [--text FILE]
        [--device cpu|cuda] [--within-s S] [--out FOLDER] [--join FOLDER ...] [--json]

A8, which holds the search of deployments against other searches, is `python -m toolkit.bench.search`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from targets.errors import MissingDependency, ToolkitError, UsageError

if TYPE_CHECKING:
    from toolkit.bench.ablations.ablation import Ablation
    from toolkit.bench.ablations.presets import Preset
    from toolkit.bench.ablations.results import Kept

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured."""
    from toolkit.bench.ablations.results import RECORDED, joined, keep, kept
    from toolkit.bench.ablations.showing import as_document, as_lines, as_markdown
    from toolkit.bench.ablations.table import ablation, names

    given = _parser().parse_args(arguments)
    out = RECORDED if given.record else given.out and Path(given.out)
    try:
        preset = _preset(given)
        found = []
        for what in [ablation(name) for name in given.names or names()]:
            if given.join:
                parts = [kept(what.name, Path(folder), device=preset.device) for folder in given.join]
                results = [joined([part for part in parts if part])]
                if out:
                    keep(results[0], out)
            elif given.kept:
                results = [one for one in (kept(what.name, device=device) for device in ("cpu", "cuda")) if one]
                if not results:
                    print(f"{what.name}: nothing is kept", file=sys.stderr)
            elif not given.names and what.gpus and (what.gpus > _gpus() or preset.device != "cuda"):
                print(f"{what.name}: left out, it needs {what.gpus} GPUs", file=sys.stderr)
                continue
            else:
                _check_devices(what, preset)
                results = [measured(what, preset, given.first_seed, given.within_s,
                                    lambda so_far: out and keep(so_far, out))]  # fmt: skip
            found += [(what, result) for result in results]
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


def _parser() -> argparse.ArgumentParser:
    from toolkit.bench.ablations.presets import PRESETS
    from toolkit.bench.ablations.table import names

    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.ablation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--preset", default="cpu", choices=sorted(PRESETS), help="sizes and steps (cpu)")
    parser.add_argument("--seeds", type=_from(1), help="paired runs of each (10; h100 and quick 5, smoke 1)")
    parser.add_argument("--first-seed", type=_from(0), default=0, help="of the seeds (0)")
    parser.add_argument("--steps", type=_from(1), help="updates on text, in place of the preset's")
    parser.add_argument("--text", help="a text file to learn from, in place of Python's documentation")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="in place of the preset's")
    parser.add_argument("--within-s", type=float, default=math.inf, metavar="S",
                        help="begin no seed that would not be done so many seconds after the first began")  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="write what was measured there, after each seed")
    parser.add_argument(
        "--join",
        metavar="FOLDER",
        nargs="+",
        help="measure nothing: take as one the seeds that were written to these folders by --out",
    )
    parser.add_argument("--kept", action="store_true", help="show what came with the toolkit; measure nothing")
    parser.add_argument("--record", action="store_true", help="write what was measured to where that lies")
    parser.add_argument("--markdown", action="store_true", help="print as toolkit/bench/RESULTS.md has it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _from(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise ValueError
        return int(text)

    number.__name__ = f"whole number from {least}"  # argparse says: invalid ... value
    return number


def _preset(given: argparse.Namespace) -> Preset:
    from toolkit.bench.ablations.presets import PRESETS

    preset = PRESETS[given.preset]
    return replace(preset, steps=given.steps or preset.steps, text=given.text, seeds=given.seeds or preset.seeds,
                   device=given.device or preset.device)  # fmt: skip


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


def _check_devices(what: Ablation, preset: Preset) -> None:
    wanted = max(what.gpus, int(preset.device == "cuda"))
    if wanted > _gpus():
        raise MissingDependency(
            f"{what.name} with preset {preset.name} needs {wanted} GPU{'s' * (wanted > 1)} that torch can use,"
            f" and {_gpus()} are here",
            hint="run it where they are" if what.gpus else "run it where one is, or give --preset cpu",
        )
    if what.gpus and preset.device != "cuda":
        raise UsageError(f"{what.name} times GPUs, and preset {preset.name} a processor",
                         hint="give --preset h100, or --device cuda")  # fmt: skip


def measured(
    what: Ablation, preset: Preset, first_seed: int = 0, within_s: float = math.inf,
    kept: Callable[[Kept], object] = lambda so_far: None,
) -> Kept:  # fmt: skip
    """The seeds of one ablation, on one thread.

    Args:
        within_s: After the first, no seed is begun that would end later than this after the first began, taking as long
            as the longest before it.
        kept: Told what there is after each seed.
    """
    import torch

    from toolkit.bench.ablations.results import made_here

    runs: dict[int, Mapping[str, Mapping[str, float]]] = {}
    threads, begun, longest_s = torch.get_num_threads(), time.monotonic(), 0.0
    torch.set_num_threads(1)
    try:
        for seed in range(first_seed, first_seed + preset.seeds):
            at = time.monotonic()
            if runs and at - begun + longest_s > within_s:
                print(f"{what.name}: no time is left for seed {seed} and those behind it", file=sys.stderr)
                break
            runs[seed] = what.run(seed, preset)
            kept(made_here(what.name, preset, runs))
            longest_s = max(longest_s, time.monotonic() - at)
            print(f"{what.name}: seed {seed}, {time.monotonic() - at:.0f} s", file=sys.stderr, flush=True)
    finally:
        torch.set_num_threads(threads)
    return made_here(what.name, preset, runs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
