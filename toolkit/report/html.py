"""One self-contained HTML file from a report document. Every string is escaped; nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from math import ceil
from typing import Any

from targets.rewrites import refusals_by_cause
from toolkit import units

__all__ = ["render"]

_QUANTITIES = (
    ("Latency", "latency_s", "latency_interval_s", "faster", "slower"),
    ("Memory", "memory_bytes", "memory_interval_bytes", "less", "more"),
    ("Energy", "energy_j", "energy_interval_j", "less", "more"),
)
_HARMFUL = 6  # layers that are named
_ROOM = 1.06  # a gauge reaches a little further than the larger of limit and interval


def render(report: Mapping[str, Any]) -> str:
    """The page for the document of report.json."""
    operators = _slowest(report)
    text: str = _template().render(
        r=report,
        units=units,
        drop=_drop_interval,
        slowest=operators,
        fallen=refusals_by_cause(operators),
        gauges=[_gauge(check) for check in report["verdict"]["checks"]],
        rows=_before_and_after(report),
        accuracy=_about_accuracy(report["accuracy"]),
        profile=_profile(report["layers"]),
    )
    return text


def _slowest(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Operators by falling latency, each with its share of the longest."""
    operators = sorted(report["estimate"]["operators"], key=lambda op: -op["latency_s"])
    longest = operators[0]["latency_s"] if operators else 1.0
    return [{**op, "share": op["latency_s"] / longest} for op in operators]


def _profile(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """SQNR behind each layer as a line through a box of 1000 x 100, and the layers that do most harm alone."""
    known = [(i, row["tensor_sqnr_db"]) for i, row in enumerate(layers) if row["tensor_sqnr_db"] is not None]
    if len(known) < 2:
        return None
    top = 10 * ceil(max(10.0, *(db for _, db in known)) / 10)
    points = [
        {"x": f"{1000 * i / (len(layers) - 1):.1f}", "y": f"{100 - 100 * min(max(db / top, 0.0), 1.0):.1f}",
         "row": layers[i], "db": db}
        for i, db in known
    ]  # fmt: skip
    harmful = sorted(layers, key=lambda row: -row["share_of_noise"])[:_HARMFUL]
    return {"points": points, "top": top, "harmful": harmful, "most": harmful[0]["share_of_noise"] or 1.0}


def _gauge(check: Mapping[str, Any]) -> dict[str, Any]:
    """A limit as a picture: where value, interval and limit lie, in percent of its width."""
    name, (low, high), limit = check["quantity"], check["interval"], check["limit"]
    reach = max(limit, high) * _ROOM or 1.0
    share = {
        key: f"{100 * value / reach:.2f}"
        for key, value in (("low", low), ("width", high - low), ("at", check["value"]), ("end", limit))
    }
    return {
        **share,
        "label": name.rpartition("_")[0].capitalize(),
        "value": units.quantity(name, check["value"]),
        "interval": [units.quantity(name, bound) for bound in (low, high)],
        "limit": units.quantity(name, limit),
        "outcome": check["outcome"],
    }


# ---- before and after


def _before_and_after(report: Mapping[str, Any]) -> list[dict[str, str]]:
    before, after = report["before"], report["after"]
    rows = [
        {
            "label": "Model file",
            **_pair(units.bytes_(before["size_bytes"]), "exact", units.bytes_(after["size_bytes"]), "exact"),
            **_change(before["size_bytes"], after["size_bytes"], "smaller", "larger"),
        }
    ]
    for label, key, spread, better, worse in _QUANTITIES:
        cells = [
            text
            for row in (before, after)
            for text in (units.quantity(key, row[key]), units.interval(key, row[spread]).strip("[]").replace(",", " –"))
        ]
        rows.append({"label": label, **_pair(*cells), **_change(before[key], after[key], better, worse)})
    return [*rows, _accuracy_row(report["accuracy"])]


def _pair(before: str, before_note: str, after: str, after_note: str) -> dict[str, str]:
    return {"before": before, "before_note": before_note, "after": after, "after_note": after_note}


def _change(before: float, after: float, better: str, worse: str) -> dict[str, str]:
    """`4.0× faster`; a change of less than a hundredth is none."""
    if not before or not after or abs(after / before - 1) < 0.01:
        return {"change": "same", "mark": ""}
    ratio = max(before / after, after / before)
    times = f"{ratio:.1f}×" if ratio >= 1.1 else f"{100 * (ratio - 1):.0f} %"
    return {"change": f"{times} {better}", "mark": "good"} if after < before else {
        "change": f"{times} {worse}", "mark": "bad",
    }  # fmt: skip


def _accuracy_row(accuracy: Mapping[str, Any]) -> dict[str, str]:
    if metric := accuracy["metric"]:
        drop = metric["before"] - metric["after"]
        pair = _pair(f"{metric['before']:.4f}", "", f"{metric['after']:.4f}", f"drop {_drop_interval(metric)}")
        return {
            "label": metric["name"].capitalize(),
            **pair,
            "change": "same" if abs(drop) < 5e-5 else f"{-drop:+.4f}",
            "mark": "" if abs(drop) < 5e-5 else "bad" if drop > 0 else "good",
        }
    return {"label": "Answers", **_pair("reference", "", _answers(accuracy), "worst output"), "change": "", "mark": ""}


def _answers(accuracy: Mapping[str, Any]) -> str:
    if accuracy["identical"]:
        return "identical"
    worst = accuracy["worst_sqnr_db"]
    return "not finite" if worst is None else f"{worst:.1f} dB SQNR"


def _about_accuracy(accuracy: Mapping[str, Any]) -> str:
    """What the accuracy row rests on, in a sentence or two."""
    if not accuracy["samples"]:
        return "No pass was compared, so nothing is known about the answers."
    where = f"{accuracy['samples']} samples ({accuracy['data']})"
    if metric := accuracy["metric"]:
        return (
            f"{metric['name'].capitalize()} on {metric['samples']} labelled samples ({accuracy['data']}); the interval "
            "of its drop holds 90 % and is taken over pairs, so the drop is below its upper end with 95 % confidence. "
            f"The worst output: {_answers(accuracy)}."
        )
    if accuracy["data"] == "synthetic":
        return (
            "No samples and no labels were given: accuracy was not measured. The answers were compared with the float "
            f"model's on {where}, which shows that both compute the same, and says nothing about real inputs."
        )
    return (
        "No labels were given: accuracy was not measured. The answers were compared with the float model's on "
        f"{where}; the row shows the signal-to-noise ratio of the worst output."
    )


def _drop_interval(metric: Mapping[str, Any]) -> str:
    """`0.0012 to 0.0034 (90 %)`"""
    low, high = ("unknown" if bound is None else f"{bound:.4f}" for bound in metric["drop_interval"])
    return f"{low} to {high} (90 %)"


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files("toolkit.report").joinpath("report.html.j2").read_text("utf-8"))
