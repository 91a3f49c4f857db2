"""toolkit compare"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.bench import show_times
from toolkit.cli.options import JsonOpt, PreprocessOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json, table

if TYPE_CHECKING:
    from toolkit.comparing import Answers, Comparison, Quantity, Step
    from toolkit.comparing.documents import Document

__all__: list[str] = []

_NAMES = {"size_bytes": "size of the model", "latency_s": "latency", "memory_bytes": "memory", "energy_j": "energy"}
_PARTS = 6


@app.command("compare")
def compare_(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a bundle.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of the bundle to set against it.")],
    data: Annotated[
        str | None,
        typer.Option(help="Samples that both answer here, with labels where they have them. [the golden samples of A]"),
    ] = None,
    preprocess: PreprocessOpt = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also time both on this machine, in turns.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one operator then. [the stacks']")] = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Set two bundles side by side: estimates, where the time goes, accuracy, passes, answers.

    Of estimates, the interval of the ratio is as wide as if the two errors had nothing in common; on one stack they
    have, and --measure tells more.
    """
    from targets.errors import UsageError
    from toolkit.bundle.bundle import open_bundle
    from toolkit.comparing import compare_bundles

    if threads is not None and not measure:
        raise UsageError("--threads is for --measure", hint="add --measure, or leave --threads out")
    if preprocess is not None and data is None:
        raise UsageError("--preprocess is for --data", hint="add --data, or leave --preprocess out")
    with progress(quiet or json) as report:
        found = compare_bundles(
            open_bundle(first), open_bundle(second), data=data, preprocess=preprocess, measure=measure,
            threads=threads, progress=report,
        )  # fmt: skip
    show_json(found.to_json()) if json else _show(found)
    return 0


def _show(found: Comparison) -> None:
    from toolkit import units

    a, b = found.documents
    paths = [str(bundle.path) for bundle in found.bundles]
    rows = [
        ["stack", a.stack.id, b.stack.id, ""],
        ["artefact", a.artifact.file, b.artifact.file, ""],
        *[_row(quantity) for quantity in found.quantities],
        ["from the float model", _moved(a), _moved(b), ""],
        *_metrics(a, b),
        ["verdict", a.verdict.outcome, b.verdict.outcome, ""],
    ]
    table(["", f"A: {paths[0]}", f"B: {paths[1]}", "B / A"], rows)
    for which, document in zip("AB", found.documents, strict=True):
        say(f"latency of {which}: {document.stack.provenance}")
    if a.model.digest != b.model.digest:
        say(f"not the same model: {a.model.name} {a.model.digest[:12]} and {b.model.name} {b.model.digest[:12]}")
    say()
    table(
        ["predicted time of", "A", "B", "B - A"],
        [
            [
                f"{part.op_class} x {part.counts[0]}" if part.counts[0] == part.counts[1] else
                f"{part.op_class} x {part.counts[0]} and {part.counts[1]}",
                *map(units.seconds, part.latency_s),
                _difference(part.latency_s),
            ]
            for part in found.parts[:_PARTS]
        ],
        right=(1, 2, 3),
    )  # fmt: skip
    if found.steps:
        say()
        table(["pass", "A", "B"], [[step.name, *_fates(step)] for step in found.steps])
    say()
    _show_answers(found.answers, found.apart)
    for name, (old, new) in found.versions.items():
        say(f"made with another {name}: {old or 'none'} and {new or 'none'}")
    if found.times:
        say()
        show_times(found.times)


def _row(quantity: Quantity) -> list[str]:
    from toolkit import units

    cells = [units.quantity(quantity.name, value) for value in quantity.values]
    if quantity.intervals:
        cells = [f"{cell} {units.interval(quantity.name, pair)}"
                 for cell, pair in zip(cells, quantity.intervals, strict=True)]  # fmt: skip
    return [_NAMES[quantity.name], *cells, _times(quantity.ratio, quantity.ratio_interval)]


def _times(ratio: float | None, ends: tuple[float, float] | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.3g}x" + (f" [{ends[0]:.3g}, {ends[1]:.3g}]" if ends else "")


def _difference(pair: Sequence[float]) -> str:
    from toolkit import units

    gained = pair[1] - pair[0]
    return f"{'+' if gained >= 0 else '-'}{units.seconds(abs(gained))}"


def _moved(document: Document) -> str:
    from toolkit import units

    known = document.accuracy
    if known.worst_sqnr_db is None:
        return "identical" if known.identical else "not finite"
    return units.decibels(known.worst_sqnr_db)


def _metrics(a: Document, b: Document) -> list[list[str]]:
    """A row for each metric that either was compiled with."""
    cells: dict[str, list[str]] = {}
    for i, known in enumerate((a.accuracy, b.accuracy)):
        if known.metric:
            row = cells.setdefault(known.metric["name"], ["-", "-"])
            row[i] = f"{known.metric['after']:.2%} of {known.samples} ({known.data})"
    return [[name, *row, ""] for name, row in cells.items()]


def _fates(step: Step) -> list[str]:
    """What became of a pass in each, with the settings that are not the other's."""
    from toolkit import units

    cells = []
    for proof, other in zip(step.proofs, reversed(step.proofs), strict=True):
        if proof is None:
            cells.append("-")
            continue
        own = {k: v for k, v in proof.settings.items() if other is None or other.settings.get(k) != v}
        moved = f", {units.decibels(proof.worst_sqnr_db)}" if proof.worst_sqnr_db is not None else ""
        said = ", ".join(f"{name}={_short(value)}" for name, value in own.items())
        cells.append(proof.decision + moved + (f" ({said})" if said and other is not None else ""))
    return cells


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _show_answers(answers: Answers | None, apart: str) -> None:
    from toolkit import units

    if answers is None:
        say(f"answers: not compared, {apart}")
        return
    say(f"B's answers against A's, on {answers.samples} {answers.data}:")
    for drift in answers.drift:
        say(f"  {drift.output}: {units.decibels(drift.sqnr_db)}, at most {drift.max_abs_error:.3g} apart")
    if answers.same_class is not None:
        say(f"  the same class in {answers.same_class} of {answers.samples}")
    if metric := answers.metric:
        low, high = metric.drop_interval
        say(f"  {metric.name}: {metric.before:.2%} and {metric.after:.2%}, B loses {metric.drop:.2%} "
            f"[{low:.2%}, {high:.2%}] (90 % interval, paired)")  # fmt: skip
