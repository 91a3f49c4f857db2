"""The comparison on the command line; see the package's first lines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import process_time

from targets.errors import ToolkitError
from toolkit.bench.search.asking import Asked, Enough
from toolkit.bench.search.judging import Standing, qd_score, standings, volume
from toolkit.bench.search.methods import ABLATION, METHODS
from toolkit.bench.search.problems import problem, problem_names

__all__ = ["compared", "main", "summary"]

_SCORES = {"hypervolume": volume, "QD score": qd_score}
Found = dict[str, dict[str, dict[str, Standing]]]
"""By problem, score and method."""


def compared(
    problems: Sequence[str], methods: Sequence[str], seeds: int, evaluations: int
) -> tuple[Found, dict[str, float]]:
    """Standings, and processor seconds that each method takes for an evaluation beside the evaluation itself."""
    found: Found = {}
    seconds = dict.fromkeys(methods, 0.0)
    asked_of = dict.fromkeys(methods, 0)
    for name in problems:
        task = problem(name)
        scores: dict[str, dict[str, list[float]]] = {score: {method: [] for method in methods} for score in _SCORES}
        for method in methods:
            for seed in range(seeds):
                asked = Asked(task, evaluations)
                start = process_time()
                with suppress(Enough):  # a peer asks for whole generations
                    {**METHODS, **ABLATION}[method](asked, seed)
                seconds[method] += process_time() - start
                asked_of[method] += len(asked.points)
                for score, of in _SCORES.items():
                    scores[score][method].append(of(task, asked.points))
            print(f"{name}: {method}", file=sys.stderr, flush=True)
        found[name] = {score: standings(by_method) for score, by_method in scores.items()}
    return found, {method: seconds[method] / max(1, asked_of[method]) for method in methods}


def summary(found: Found, method: str = "ours") -> str:
    """On how many problems `method` is below another, and on how many it is first."""
    below = [f"{name} ({score})" for name, by in found.items() for score, of in by.items() if of[method].is_below]
    first = [name for name, by in found.items() if all(of[method].is_best for of in by.values())]
    said = f"{method}: first in both scores on {len(first)} of {len(found)} problems; "
    return said + (f"significantly below the best on {', '.join(below)}" if below else "nowhere significantly below")


def _lines(found: Found, seconds: Mapping[str, float]) -> list[str]:
    lines = []
    for name, by_score in found.items():
        lines.append(f"{name}: {problem(name).configurations:.3g} configurations")
        for score, of in by_score.items():
            for method, one in sorted(of.items(), key=lambda item: -item[1].mean):
                low, high = one.interval
                said = "best" if one.is_best else f"{'below' if one.is_below else 'not below'}, p = {one.p:.3f}"
                lines.append(f"  {score:12} {method:18} {one.mean:8.3f} [{low:.3f}, {high:.3f}]  {said}")
    lines += [f"{method}: {took * 1e3:.3g} ms an evaluation" for method, took in seconds.items()]
    return lines


def _is_search(name: str, evaluations: int) -> bool:
    """Whether a problem has more configurations than there are evaluations; what can be walked whole is left out."""
    configurations = problem(name).configurations
    if configurations > evaluations:
        return True
    print(f"{name}: left out, {evaluations} evaluations are all of its {configurations}", file=sys.stderr)
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.search", description=__doc__)
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help="all by default")
    parser.add_argument("--methods", help="names, by commas (all searches)")
    parser.add_argument("--ablation", action="store_true", help="ours against itself, with others proposing")
    parser.add_argument("--seeds", type=int, default=5, help="paired runs of each (5)")
    parser.add_argument("--evaluations", type=int, default=500, help="of each run (500)")
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    given = parser.parse_args(arguments)
    known = ABLATION if given.ablation else METHODS
    methods = given.methods.split(",") if given.methods else list(known)
    if given.seeds < 2 or given.evaluations < 1 or not set(methods) <= set(known):
        parser.error(f"--seeds from 2, --evaluations from 1, --methods of {', '.join(known)}")
    try:
        chosen = given.problems or [name for name in problem_names() if _is_search(name, given.evaluations)]
        found, seconds = compared(chosen, methods, given.seeds, given.evaluations)
    except ToolkitError as error:
        print(f"error: {error.problem}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    if given.json:
        plain = {name: {score: {method: vars(one) | {"is_below": one.is_below} for method, one in of.items()}
                        for score, of in by.items()} for name, by in found.items()}  # fmt: skip
        print(json.dumps({"problems": plain, "seconds_an_evaluation": seconds, "seeds": given.seeds,
                          "evaluations": given.evaluations}, indent=1))  # fmt: skip
        return 0
    for line in _lines(found, seconds):
        print(line)
    if "ours" in methods:
        print(summary(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
