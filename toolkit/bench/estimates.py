"""How good the latency model is, refitted from the frozen rows: `python -m toolkit.bench.estimates [--json] [TARGET]`.

For each stack: errors on networks, and on whole families, that the fit had not seen, and what the data sheet alone
would have said, beside two plainer models fitted on the same rows; the share of them inside the 80 % interval, whose
width is taken from the other networks. A network is left out at all of its image sizes together. Then the cells of
NAS-Bench-201, and the cycles that the Edge TPU's own compiler expects.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, spearmanr

from targets.fitting import HeldOut, Measured, held_out
from targets.latency import COVERAGE, LatencyFit
from targets.stack import Stack
from targets.target import prior_of, shipped_target, target_names
from toolkit.bench.arguments import add_targets
from toolkit.bench.baselines import BASELINES, left_out_errors
from toolkit.bench.networks import coverage
from toolkit.bench.published import measured_rows, published_rows
from toolkit.calibration.refit import FEWEST_ROWS, own_part

__all__ = ["Errors", "Row", "report"]

GROUPS: Mapping[str, Callable[[Measured], str]] = {
    "network": lambda m: m.network,
    "family": lambda m: m.family,
    "all": lambda m: "",
}


@dataclass(frozen=True)
class Goal:
    """Mean errors at most, with a network and with a family left out; shares and correlation at least, of the first."""

    network: float
    family: float | None = None
    within_10: float = 0.0
    within_20: float = 0.0
    spearman: float = -1.0


_PI_4, _NCNN = Goal(0.06, 0.09, within_10=0.85, spearman=0.99), Goal(0.15, 0.20)
_GOALS: Mapping[str, Goal] = {
    "raspberry_pi_4/tflite-fp32": _PI_4,
    "raspberry_pi_4/tflite-int8": _PI_4,
    "raspberry_pi_4/armnn-fp32": _PI_4,
    "raspberry_pi_4/armnn-int8": _PI_4,
    "raspberry_pi_3/ncnn-fp32": _NCNN,
    "raspberry_pi_4/ncnn-fp32": _NCNN,
    "raspberry_pi_5/ncnn-fp16": _NCNN,
    "jetson_nano/tensorrt-fp16": Goal(0.08, 0.12, within_20=0.9),
    "jetson_agx_xavier/tensorrt-fp16": Goal(0.10),
    "jetson_xavier_nx/tensorrt-int8": Goal(0.10),
    "jetson_tx2/tensorrt-fp16": Goal(0.10),
    "coral_tpu/usb3-desktop": Goal(0.10, spearman=0.97),
    "coral_dev_board/pcie": Goal(0.10, spearman=0.97),
    "desktop_gpu/rtx3090-pytorch-amp": Goal(0.15),
    "desktop_gpu/rtx4090-pytorch-amp": Goal(0.15),
}


@dataclass(frozen=True)
class Errors:
    """Errors on what was left out: means and shares are relative to the measured latency."""

    mape: float
    within_10: float
    within_20: float
    spearman: float
    coverage: float | None = None

    @classmethod
    def of(cls, errors: Any, predicted: Any, measured: Any, inside: float | None = None) -> Errors:
        return cls(
            float(np.mean(errors)),
            float(np.mean(errors <= 0.1)),
            float(np.mean(errors <= 0.2)),
            float(spearmanr(predicted, measured).statistic),
            inside,
        )


@dataclass(frozen=True)
class Row:
    """One stack. `model` and the baselines hold errors by what was left out: a `network`, a `family`, or `all` rows."""

    stack: str
    measured_as: Mapping[str, str]
    rows: int
    networks: int
    goal: Goal | None
    model: Mapping[str, Errors]
    baselines: Mapping[str, Mapping[str, Errors]]
    p_coverage: float

    @property
    def missed(self) -> bool:
        """Whether a goal was set for the stack and any part of it is not reached."""
        if self.goal is None:
            return False
        found, family = self.model["network"], self.goal.family
        return (
            found.mape > self.goal.network
            or (family is not None and self.model["family"].mape > family)
            or found.within_10 < self.goal.within_10
            or found.within_20 < self.goal.within_20
            or found.spearman < self.goal.spearman
        )


def report(names: Sequence[str]) -> list[Row]:
    """A row for every stack of these targets with enough measured rows."""
    published = published_rows()
    found = []
    for name in names:
        target = shipped_target(name)
        for stack in target.stacks.values():
            rows = [m for m in (own_part(m, stack) for m in measured_rows(stack, published)) if m is not None]
            if len(rows) >= FEWEST_ROWS:
                found.append(judge(stack, rows, prior_of(target, stack.name)))
    return found


def judge(stack: Stack, rows: Sequence[Measured], prior: LatencyFit) -> Row:
    """Leave out each network, then each family, with the model and with the baselines."""
    measured = np.array([row.latency_s for row in rows])
    left_out = {what: held_out(rows, prior, group) for what, group in GROUPS.items()}
    quantile = left_out["network"].quantile
    inside = {
        "network": left_out["network"].coverage,
        "family": float(np.mean(left_out["family"].scores <= quantile)),
        "all": float(np.mean(left_out["all"].scores <= prior.quantile)),
    }
    plain = {
        name: {what: Errors.of(*_plain(rows, prior, group, name), measured) for what, group in GROUPS.items()}
        for name in BASELINES
    }
    share = inside["network"]
    return Row(
        stack=stack.id,
        measured_as=stack.measured_as,
        rows=len(rows),
        networks=len({row.network for row in rows}),
        goal=_GOALS.get(stack.id),
        model={what: _errors(found, measured, inside[what]) for what, found in left_out.items()},
        baselines=plain,
        p_coverage=1.0 if share is None else float(binomtest(round(share * len(rows)), len(rows), COVERAGE).pvalue),
    )


def _errors(found: HeldOut, measured: Any, inside: float | None) -> Errors:
    return Errors.of(found.errors, measured / np.array(found.factors), measured, inside)


def _plain(rows: Sequence[Measured], prior: LatencyFit, group: Callable[[Measured], str], name: str) -> tuple[Any, Any]:
    return left_out_errors(rows, prior, group, name)


# ---- printed


def _print_coverage() -> None:
    counts: dict[str, tuple[int, int]] = {}
    for (device, *_), (covered, total) in coverage(published_rows()).items():
        before = counts.get(device, (0, 0))
        counts[device] = before[0] + covered, before[1] + total
    print("Rows of the frozen table whose network could be built:")
    for device, (covered, total) in sorted(counts.items()):
        print(f"  {device:28} {covered:4} of {total:4}  {covered / total:4.0%}")


def _print(row: Row) -> None:
    as_measured = ", ".join(f"{value or '-'}" for value in row.measured_as.values())
    print(f"\n{row.stack}  ({as_measured})\n  {row.rows} rows of {row.networks} networks", end="")
    if row.goal:
        aims = [f"network {row.goal.network:.0%}", f"family {row.goal.family:.0%}" if row.goal.family else ""]
        aims += [f"{share:.0%} in {width}" for share, width in
                 ((row.goal.within_10, "±10 %"), (row.goal.within_20, "±20 %")) if share]  # fmt: skip
        aims += [f"Spearman {row.goal.spearman:g}"] if row.goal.spearman > 0 else []
        print(f"; goal {', '.join(filter(None, aims))}: {'MISSED' if row.missed else 'met'}", end="")
    print("\n  left out   model    ±10 %  ±20 %  Spearman  in 80 %   additive   MACs only")
    for what, found in row.model.items():
        additive, macs = (row.baselines[name][what].mape for name in ("additive", "macs"))
        print(f"  {what:8} {found.mape:7.1%} {found.within_10:7.0%} {found.within_20:6.0%} {found.spearman:9.3f} "
              f"{found.coverage or 0:8.0%} {additive:10.1%} {macs:11.1%}")  # fmt: skip


def _print_pooled(rows: Sequence[Row]) -> None:
    total = sum(row.rows for row in rows)
    for what in GROUPS:
        inside = sum((row.model[what].coverage or 0) * row.rows for row in rows)
        print(f"80 % interval, {what} left out, all stacks: {inside / total:.1%} of {total} rows")
    rejected = [row.stack for row in rows if row.p_coverage < 0.05]
    print(f"binomial test at 5 % rejects 80 % on {len(rejected)} of {len(rows)} stacks: {', '.join(rejected) or '-'}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.estimates", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_targets(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    from toolkit.bench.accelerator import cycles
    from toolkit.bench.cells import cells

    rows = report(given.targets or target_names())
    apart = {} if given.targets else {"nasbench201": cells(), "edgetpu_cycles": cycles()}
    if given.json:
        document = {
            "schema": "toolkit.bench.estimates/1",
            "stacks": [{**asdict(row), "missed": row.missed} for row in rows],
            **apart,
        }
        print(json.dumps(document, indent=1))
        return
    _print_coverage()
    for row in rows:
        _print(row)
    print()
    _print_pooled(rows)
    for name, document in apart.items():
        print(f"\n{name}")
        for key, value in document.items():
            print(f"  {key}: {value}")


if __name__ == "__main__":
    main()
