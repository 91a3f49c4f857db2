"""The archive beside pyribs: `python -m toolkit.bench.archive [--json]`. Wants the extra `bench`.

Adding candidates, placing centroids and holding many large genomes, in turns in one run on one thread; what is compared
is the median of the ratios. Holding is measured in processes of their own: memory that belongs to no file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from targets.errors import MissingDependency

__all__ = ["Row", "main", "rows"]

_CELLS, _MEASURES, _GENES = 1_000, 5, 20
_TURNS = 7
_ELITES, _MATRICES, _WIDTH, _RANK = 1_000, 4, 512, 64


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. `ours` and `theirs` are medians in `unit`; `ratio` says how many times less ours is."""

    what: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    goal: str
    note: str = ""


def rows(elites: int = _ELITES) -> list[Row]:
    """Every comparison.

    Raises:
        MissingDependency: pyribs is not installed.
    """
    try:
        import ribs
    except ImportError as error:
        raise MissingDependency(
            "pyribs is not installed: there is nothing to compare with", hint="pip install -e '.[bench]'"
        ) from error
    peer = f"pyribs {ribs.__version__}"
    return [_adding(1, "3x", peer), _adding(64, "-", peer), _adding(4_096, "1.5x", peer), _placing(peer),
            *_holding(elites, peer)]  # fmt: skip


def _space() -> Any:
    from toolkit.search.behavior import BehaviorSpace
    from toolkit.search.measures import Measure

    return BehaviorSpace([Measure(name=f"m{k}", unit="1", low=0.0, high=1.0) for k in range(_MEASURES)])


def _ours(centroids: Any) -> Any:
    from toolkit.search.archive import CVTArchive

    return CVTArchive(_space(), centroids, quality_min=0.0, quality_max=1.0)


def _theirs(centroids: Any, solution: int = _GENES) -> Any:
    from ribs.archives import CVTArchive

    return CVTArchive(solution_dim=solution, centroids=centroids, ranges=[(0.0, 1.0)] * _MEASURES)


def _adding(batch: int, goal: str, peer: str) -> Row:
    from toolkit.search.elites import Candidate

    rng = np.random.default_rng(0)
    count = max(1_000, 10 * batch)
    genomes, measures, quality = rng.random((count, _GENES)), rng.random((count, _MEASURES)), rng.random(count)
    centroids = rng.random((_CELLS, _MEASURES))
    parts = [slice(start, start + batch) for start in range(0, count, batch)]
    offered = [Candidate(genomes[k], measures[k], float(quality[k])) for k in range(count)] if batch == 1 else []

    kept: dict[str, Any] = {}

    def ours() -> None:
        kept["ours"] = archive = _ours(centroids)
        if batch == 1:
            for candidate in offered:
                archive.add([candidate])
        else:
            for part in parts:
                archive.add_arrays(genomes[part], measures[part], quality[part])

    def theirs() -> None:
        kept["theirs"] = archive = _theirs(centroids)
        if batch == 1:
            for k in range(count):
                archive.add_single(genomes[k], quality[k], measures[k])
        else:
            for part in parts:
                archive.add(genomes[part], quality[part], measures[part])

    mine, other, ratio = _in_turns(ours, theirs)
    _check_equal(kept["ours"], kept["theirs"])
    return Row(what=f"add, {batch} at a time, {_CELLS} cells of {_MEASURES} measures", ours=mine / count * 1e6,
               theirs=other / count * 1e6, unit="µs a candidate", ratio=ratio, goal=goal, note=peer)  # fmt: skip


def _check_equal(ours: Any, theirs: Any) -> None:
    """A time is worth nothing where the same candidates left another archive behind."""
    found = {elite.cell: elite.quality for elite in ours}
    data = theirs.data(["index", "objective"])
    expected = dict(zip(data["index"].tolist(), data["objective"].tolist(), strict=True))
    if found != expected:
        raise RuntimeError(f"{len(found)} and {len(expected)} cells hold other qualities than pyribs' archive")


def _in_turns(ours: Callable[[], None], theirs: Callable[[], None], turns: int = _TURNS) -> tuple[float, float, float]:
    """Medians of processor seconds, and of the ratio theirs / ours within a turn; the first turn warms up."""
    pairs = np.array([(_seconds(ours), _seconds(theirs)) for _ in range(turns + 1)])[1:]
    return float(np.median(pairs[:, 0])), float(np.median(pairs[:, 1])), float(np.median(pairs[:, 1] / pairs[:, 0]))


def _seconds(work: Callable[[], object]) -> float:
    start = process_time()
    work()
    return process_time() - start


def _placing(peer: str) -> Row:
    from ribs.archives import k_means_centroids
    from scipy.spatial import KDTree

    from toolkit.search.centroids import cvt_centroids

    kept: dict[str, Any] = {}

    def ours() -> None:
        kept["ours"] = cvt_centroids(_CELLS, _MEASURES, seed=0)

    def theirs() -> None:
        kept["theirs"] = k_means_centroids(centroids=_CELLS, ranges=[(0.0, 1.0)] * _MEASURES, seed=0)[0]

    mine, other = _seconds(ours), _seconds(theirs)
    fresh = np.random.default_rng(1).random((200_000, _MEASURES))
    errors = {name: float(np.sqrt(np.square(KDTree(c).query(fresh)[0]).mean())) for name, c in kept.items()}
    note = f"{peer}; quantization error {errors['ours']:.4f} and {errors['theirs']:.4f} (to be equal within 1 %)"
    return Row(what=f"{_CELLS} centroids from 100,000 samples", ours=mine, theirs=other, unit="s", ratio=other / mine,
               goal="5x", note=note)  # fmt: skip


def _holding(elites: int, peer: str) -> list[Row]:
    """Private memory of a process that holds many elites, and the time of drawing one and reading all its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive"
        _apart("write", str(path), str(elites))
        ours = _apart("ours", str(path), str(elites))
        theirs = _apart("theirs", str(path), str(elites))
    what = f"{elites} elites of {_MATRICES} x {_WIDTH}^2 at rank {_RANK}"
    return [
        Row(what=f"{what}: private memory", ours=ours["bytes"] / 1e6, theirs=theirs["bytes"] / 1e6, unit="MB",
            ratio=theirs["bytes"] / ours["bytes"], goal="300 MB or less", note=peer),
        Row(what=f"{what}: draw one and read it", ours=ours["seconds"] * 1e3, theirs=theirs["seconds"] * 1e3, unit="ms",
            ratio=theirs["seconds"] / ours["seconds"], goal="2 ms or less",
            note=f"{peer}; the first reading of each checks its digest"),
    ]  # fmt: skip


def _apart(*words: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", f"from toolkit.bench.archive import _hold; _hold({list(words)!r})"],
        capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout or "{}")
    return found


def _hold(words: list[str]) -> None:
    """What the processes of `_holding` do: `write`, `ours` or `theirs`, a folder, and how many elites."""
    who, path, elites = words[0], Path(words[1]), int(words[2])
    rng = np.random.default_rng(0)
    centroids = rng.random((elites, _MEASURES))
    if who == "write":
        _write(path, centroids)
        return
    before = _private_bytes()
    if who == "ours":
        from toolkit.search.folder import load
        from toolkit.search.genomes import arrays_of

        archive = load(path)

        def draw() -> float:
            genome = arrays_of(archive.sample(1, rng)[0].genome)
            return float(sum(float(array[0, 0]) for array in genome.values()))
    else:
        theirs = _theirs(centroids, 2 * _MATRICES * _WIDTH * _RANK)
        for k in range(elites):
            theirs.add_single(rng.standard_normal(2 * _MATRICES * _WIDTH * _RANK, np.float32), 0.5, centroids[k])

        def draw() -> float:
            return float(theirs.sample_elites(1)["solution"][0, 0])

    held = _private_bytes() - before
    times = sorted(_seconds(draw) for _ in range(51))
    print(json.dumps({"bytes": held, "seconds": times[25]}))


def _write(path: Path, centroids: Any) -> None:
    from toolkit.search.elites import Candidate
    from toolkit.search.folder import ArchiveFolder, save

    save(_ours(centroids), path)
    rng = np.random.default_rng(0)
    with ArchiveFolder.opened(path) as folder:
        for start in range(0, len(centroids), 50):
            folder.add([Candidate(_factors(rng), place, 0.5) for place in centroids[start : start + 50]])


def _factors(rng: np.random.Generator) -> dict[str, Any]:
    return {f"w{k}@{side}": rng.standard_normal(shape, np.float32) for k in range(_MATRICES)
            for side, shape in (("left", (_WIDTH, _RANK)), ("right", (_RANK, _WIDTH)))}  # fmt: skip


def _private_bytes() -> int:
    """Memory of this process that no file backs."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise MissingDependency("the kernel does not say what memory is private", hint="run it on Linux 4.14 or newer")


def main(arguments: list[str] | None = None) -> int:
    """Print the comparisons."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.archive", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    parser.add_argument("--elites", type=int, default=_ELITES, help="large genomes held (1.05 MB each)")
    wanted = parser.parse_args(arguments)
    if wanted.elites < 1:
        parser.error("--elites from 1")
    try:
        found = rows(wanted.elites)
    except MissingDependency as error:
        print(f"error: {error.problem}\n  next: {error.hint}", file=sys.stderr)
        return error.exit_code
    if wanted.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return 0
    for row in found:
        print(row.what)
        figures = f"{row.ours:.3g} against {row.theirs:.3g} {row.unit}: {row.ratio:.1f}x"
        print(f"  {figures} (goal {row.goal}; {row.note})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
