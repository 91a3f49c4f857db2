"""The ledger as lines for people, as a table for a README, and as one document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from toolkit.bench.training_cost.ablation import CLAIMED, CLAIMED_IN_ALL
from toolkit.bench.training_cost.ledger import Product, Row, claimed_product, product

__all__ = ["as_document", "as_lines", "as_markdown"]

_HEAD = (
    f"{'method':24} {'arm':16} {'claimed':>8} {'measured':>9} {'95 % interval':>16} {'of':11} {'verdict':12} "
    f"{'quality':>9} seeds"
)
_COSTS = {"time_s": "time", "flops": "FLOPs", "size_bytes": "file", "peak_bytes": "peak memory"}
_PRODUCTS = {None: "each in the first cost of its rows", "time_s": "of training time alone"}


def as_document(found: Sequence[Row]) -> dict[str, Any]:
    """For `--json`."""
    return {
        "schema": "toolkit.bench.training_cost/1",
        "claimed": {"factors": dict(CLAIMED), "product": claimed_product(), "in_all": CLAIMED_IN_ALL},
        "rows": [{**asdict(row), "verdict": row.verdict} for row in found],
        "product": asdict(product(found)),
        "product_time": asdict(product(found, "time_s")),
    }


def as_lines(found: Sequence[Row]) -> Iterator[str]:
    """A line for each cost of each arm, the machines, and the products."""
    yield _HEAD
    for row in found:
        yield from _lines(row)
    for machine in sorted({row.machine for row in found if row.machine}):
        yield f"measured on {machine}"
    there = {row.factor for row in found}
    of = "" if there >= set(CLAIMED) else ", of what was asked for alone"
    for cost, what in _PRODUCTS.items():
        true = product(found, cost)
        yield ""
        yield f"{what}:"
        for name, (value, interval) in true.by_factor.items():
            told = f"true {_times(value)} {_interval(interval)}" if name in there else "not asked for"
            yield f"  {name:18} claimed {_times(CLAIMED[name]):>5}, {told}"
        claimed = f"claimed {CLAIMED_IN_ALL:.0e} (its factors give {claimed_product():.0e})"
        yield f"  in all: {claimed}, true {_total(true)}{of}"


def _lines(row: Row) -> Iterator[str]:
    head = f"{row.method:24} {row.arm:16} {_times(row.claimed):>8}"
    if row.missing:
        yield f"{head} not measured: {row.missing}"
        return
    for position, found in enumerate(row.factors):
        start = head if position == 0 else " " * len(head)
        end = f" {found.gain:>+9.4f} {found.reached}/{len(found.by_seed)}" if position == 0 else ""
        figures = f"{_times(found.median):>9} {_interval(found.interval):>16} {_COSTS.get(found.cost, found.cost):11}"
        yield f"{start} {figures} {found.verdict:12}{end}".rstrip()
    if row.note:
        yield f"{'':24} {row.note}"


def as_markdown(found: Sequence[Row]) -> Iterator[str]:
    """The table of toolkit/training/README.md."""
    yield "| method | task | claimed | measured at equal quality, 95 % interval | verdict |"
    yield "|---|---|---|---|---|"
    for row in found:
        name = f"**{row.method}**: {row.arm}" if row.headline else f"{row.method}: {row.arm}"
        figures = (f"{_COSTS.get(f.cost, f.cost)} {_times(f.median)} {_interval(f.interval)}" for f in row.factors)
        shown = "; ".join(figures) or f"not measured: {row.missing}"
        yield f"| {name} | {row.task} | {_times(row.claimed)} | {shown} | {row.verdict} |"
    for cost, what in _PRODUCTS.items():
        claimed = f"{CLAIMED_IN_ALL:.0e}" if cost is None else ""
        yield f"| all that help, {what} | | {claimed} | {_total(product(found, cost))} | |"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}x" if value else "never"


def _interval(ends: tuple[float, float]) -> str:
    return f"[{ends[0]:.3g}, {ends[1]:.3g}]"


def _total(true: Product) -> str:
    return f"{_times(true.total)} {_interval(true.interval)}"
