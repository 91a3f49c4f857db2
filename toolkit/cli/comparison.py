"""Two bundles side by side, as text."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isinf
from typing import TYPE_CHECKING

from toolkit.cli.output import EXTRAPOLATED, say, table
from toolkit.cli.times import show_times

if TYPE_CHECKING:
    from passes.proof import Drift
    from toolkit.comparing import Comparison, Part, Quantity, Step
    from toolkit.report.reading import Document

__all__ = ["show_comparison"]

_NAMES = {"size_bytes": "size of the model", "latency_s": "latency", "memory_bytes": "memory", "energy_j": "energy"}
_PARTS = 6


def show_comparison(found: Comparison) -> None:
    """Figures, where the time goes, passes, answers, and what was timed."""
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
    for what, source in a.estimate.sources.items():
        if source == b.estimate.sources[what]:
            say(f"{what}: {source}")
        else:
            say(f"{what} of A: {source}")
            say(f"{what} of B: {b.estimate.sources[what]}")
    for which, document in zip("AB", found.documents, strict=True):
        if document.after.extrapolated:
            say(f"{which}: {EXTRAPOLATED}")
    if a.model.digest != b.model.digest:
        say(f"not the same model: {a.model.name} {a.model.digest[:12]} and {b.model.name} {b.model.digest[:12]}")
    say()
    _show_parts(found.parts)
    if found.steps:
        say()
        table(["pass", "A", "B"], [[step.name, *_fates(step)] for step in found.steps])
    say()
    _show_answers(found)
    for name, (old, new) in found.versions.items():
        say(f"made with another {name}: {old or 'none'} and {new or 'none'}")
    if found.times:
        say()
        show_times(found.times)


def _show_parts(parts: Sequence[Part]) -> None:
    """The kinds of operators that differ most, the others together, and all of them."""
    from toolkit import units

    shown, others = parts[:_PARTS], parts[_PARTS:]
    sums = [(_named(part), part.latency_s) for part in shown]
    if others:
        sums.append((f"{len(others)} other kinds", _summed(others)))
    sums.append(("all", _summed(parts)))
    rows = [[name, *map(units.seconds, pair), _difference(pair)] for name, pair in sums]
    table(["predicted time of", "A", "B", "B - A"], rows, right=(1, 2, 3))


def _named(part: Part) -> str:
    ours, theirs = part.counts
    if ours == theirs:
        return f"{part.op_class} x {ours}" if ours else part.op_class
    return f"{part.op_class} x {ours} and {theirs}"


def _summed(parts: Sequence[Part]) -> tuple[float, float]:
    return sum(part.latency_s[0] for part in parts), sum(part.latency_s[1] for part in parts)


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
        return "identical" if known.identical else "without SQNR"
    return units.decibels(known.worst_sqnr_db)


def _metrics(a: Document, b: Document) -> list[list[str]]:
    """A row for each metric that either was compiled with."""
    cells: dict[str, list[str]] = {}
    for i, known in enumerate((a.accuracy, b.accuracy)):
        if known.metric:
            row = cells.setdefault(known.metric.name, ["-", "-"])
            row[i] = f"{known.metric.after:.2%} of {known.samples} ({known.data})"
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
        worst = proof.worst_sqnr_db
        moved = "" if worst == inf else ", no SQNR" if worst == -inf else f", {units.decibels(worst)}"
        said = ", ".join(f"{name}={_short(value)}" for name, value in own.items())
        cells.append(str(proof.decision) + moved + (f" ({said})" if said and other is not None else ""))
    return cells


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _show_answers(found: Comparison) -> None:
    for which, document in zip("AB", found.documents, strict=True):
        if document.artifact.checked:
            say(f"answers of {which}: {document.artifact.checked}")
    if found.answers is None:
        say(f"answers: not compared; {found.apart}")
        return
    answers = found.answers
    say(f"B's answers against A's, on {answers.samples} {answers.data}:")
    for drift in answers.drift:
        say(f"  {drift.output}: {_apart(drift)}")
    if answers.same_class is not None:
        say(f"  the same class in {answers.same_class} of {answers.samples}")
    if metric := answers.metric:
        low, high = metric.drop_interval
        say(f"  {metric.name}: {metric.before:.2%} and {metric.after:.2%}, B - A {0 - metric.drop:+.2%} "
            f"[{0 - high:+.2%}, {0 - low:+.2%}] (90 % interval, paired)")  # fmt: skip


def _apart(drift: Drift) -> str:
    from toolkit import units

    if drift.sqnr_db == inf:
        return "identical"
    if isinf(drift.max_abs_error):
        return "not finite in one of them alone"
    return f"{units.decibels(drift.sqnr_db)}, at most {drift.max_abs_error:.3g} apart"
