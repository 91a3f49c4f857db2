"""Ablations as lines for people, as the tables of RESULTS.md, and as one document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

from toolkit.bench.ablations.ablation import Ablation, Measures, compared
from toolkit.bench.ablations.comparing import FEWEST_SEEDS, Compared
from toolkit.bench.ablations.results import Kept

__all__ = ["as_document", "as_lines", "as_markdown", "means"]


def means(found: Kept) -> dict[str, Measures]:
    """Of each measure of each arm, over the seeds."""
    first = next(iter(found.runs.values()))
    return {arm: {name: fmean(run[arm][name] for run in found.runs.values()) for name in measures}
            for arm, measures in first.items()}  # fmt: skip


def as_document(what: Ablation, found: Kept) -> dict[str, Any]:
    """For `--json`: the runs, what was made of them, and what follows."""
    answers = _compared(what, found)
    return {
        **found.to_data(), "question": what.question, "rule": what.rule, "simulated": what.simulated,
        "contrasts": {name: asdict(answer) for name, answer in answers.items()},
        "conclusion": _concluded(what, found, answers), "note": what.note,
    }  # fmt: skip


def as_lines(what: Ablation, found: Kept) -> Iterator[str]:
    """A line for each arm and each contrast."""
    yield f"{what.name}  {what.question}{'  [simulation]' if what.simulated else ''}"
    for arm, measures in means(found).items():
        yield f"  {arm:24} " + ", ".join(f"{name} {_number(value)}" for name, value in measures.items())
    answers = _compared(what, found)
    for name, answer in answers.items():
        yield f"  {name}: {_said(answer)}"
    yield f"  {_concluded(what, found, answers)}"
    yield f"  rule: {what.rule}"
    yield f"  {_where(found)}"


def as_markdown(what: Ablation, found: Kept) -> Iterator[str]:
    """One section of RESULTS.md."""
    yield f"## {what.name}{' on a GPU' if found.preset.device == 'cuda' else ''}. {what.question}"
    yield ""
    yield f"{_concluded(what, found, _compared(what, found))} Rule: {what.rule}."
    if what.note:
        yield f"{what.note}"
    yield ""
    yield f"{_where(found)}."
    yield ""
    mean = means(found)
    names = list(next(iter(mean.values())))
    yield f"| arm | {' | '.join(names)} |"
    yield "|---|" + "---|" * len(names)
    for arm, measures in mean.items():
        yield f"| {arm} | {' | '.join(_number(measures[name]) for name in names)} |"
    yield ""
    yield "| contrast | mean difference, 95 % interval | verdict | Wilcoxon p, Holm | each seed |"
    yield "|---|---|---|---|---|"
    for name, answer in _compared(what, found).items():
        each = ", ".join(f"{gap:+.4g}" for gap in answer.differences)
        yield (f"| {name} | {answer.mean:+.4g} [{answer.interval[0]:+.4g}, {answer.interval[1]:+.4g}] | "
               f"{answer.verdict} | {answer.wilcoxon_p:.3f}, {answer.holm_p:.3f} | {each} |")  # fmt: skip
    yield ""


def _compared(what: Ablation, found: Kept) -> Mapping[str, Compared]:
    return compared(what, [found.runs[seed] for seed in sorted(found.runs)])


def _concluded(what: Ablation, found: Kept, answers: Mapping[str, Compared]) -> str:
    if len(found.runs) < FEWEST_SEEDS:
        return f"Seeds {', '.join(map(str, sorted(found.runs)))} alone, of {FEWEST_SEEDS} that a verdict takes: " \
               "nothing follows yet."  # fmt: skip
    return what.conclude(answers, means(found))


def _said(answer: Compared) -> str:
    low, high = answer.interval
    return (f"{answer.mean:+.4g} [{low:+.4g}, {high:+.4g}] {answer.verdict} "
            f"(Wilcoxon p {answer.wilcoxon_p:.3f}, Holm {answer.holm_p:.3f}, "
            f"equivalence p {answer.equivalence_p:.3f})")  # fmt: skip


def _where(found: Kept) -> str:
    sizes, seeds = found.preset, sorted(found.runs)
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return (f"Preset {sizes.name}: width {sizes.width}, {sizes.layers} layers, {sizes.heads} heads, context "
            f"{sizes.context}, batch {sizes.batch}, {sizes.steps} steps on text, {sizes.toy_steps} on toys, measured "
            f"every {sizes.medium}; seeds {', '.join(map(str, seeds))}; {found.machine}; {versions}; "
            f"sizes {found.digest[:8]}")  # fmt: skip


def _number(value: float) -> str:
    return f"{value:.4g}"
