"""Networks that were timed with one and with more threads, beside what `targets.scaling` makes of the one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import mean
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from targets.cost import estimate
from targets.fitting import Measured, fit_stack
from targets.latency import CAUSES, LatencyFit
from targets.modes import Threading
from targets.prior import prior_fit
from targets.scaling import KIND_OF_CAUSE, scaled, thread_factors
from targets.stack import DTYPE_OF_PRECISION, Stack
from targets.target import load_target, target_names
from targets.workload import Workload
from toolkit.bench.networks import canonical, family
from toolkit.bench.published import measured_rows, published_rows, workload_of

__all__ = [
    "FUSES", "Pair", "Shares", "Taken", "Tally", "cost_shares", "fitted_shares", "pairs", "start_of", "taken_stacks",
    "thread_table",
]  # fmt: skip

FUSES = frozenset({"batch_norm", "activation"})
"""What the runtimes of the rows fuse."""

Array = np.ndarray[Any, Any]
_MOST_THREADS = 12
_BOARDS: Mapping[str, tuple[float, float]] = {
    "Raspberry Pi 3B+": (11e9, 3.6e9), "Raspberry Pi 4B": (14e9, 12.8e9), "Raspberry Pi 5": (38e9, 17.1e9),
    "Raspberry Pi Zero 2 W": (8e9, 3.6e9), "Jetson Nano (CPU)": (11e9, 25.6e9), "Jetson TX2 (CPU)": (16e9, 59.7e9),
    "Jetson AGX Xavier (CPU)": (36e9, 136.5e9), "Jetson AGX Orin (CPU)": (35e9, 204.8e9),
    "Jetson Orin Nano (CPU)": (24e9, 68e9),
}  # fmt: skip
"""Float32 operations of one core and bytes of memory, a second, where the fits of costs start; all that follows is
ratios, in which they hardly show."""

_NARROW = ("Raspberry Pi",)  # memory 32 bits wide: one or two cores take all that it delivers


@dataclass(frozen=True)
class Pair:
    """One network with two numbers of threads; `parts` are the shares of its time by cause at `before`."""

    board: str
    runtime: str
    precision: str
    network: str
    before: int
    after: int
    parts: tuple[float, ...]
    ratio: float

    @property
    def narrow(self) -> bool:
        return self.board.startswith(_NARROW)


@dataclass(frozen=True)
class Shares:
    """What n threads divide by n, by kind of cause; traffic apart for boards with narrow and with wide memory."""

    core: float
    narrow_bytes: float
    wide_bytes: float
    host: float

    def predicted(self, pair: Pair) -> float:
        """How much longer the network takes."""
        threading = Threading(
            cores=_MOST_THREADS, core=self.core, host=self.host, scatter=0.0, source="fitted here",
            bytes=self.narrow_bytes if pair.narrow else self.wide_bytes,
        )  # fmt: skip
        factors = thread_factors(threading, pair.before, pair.after)
        return sum(part * factors[KIND_OF_CAUSE[cause]] for part, cause in zip(pair.parts, CAUSES, strict=True))


@dataclass(frozen=True)
class Tally:
    """Pairs of one board: mean absolute error of what is predicted from the other number of threads."""

    board: str
    pairs: int
    mape: float
    mape_unchanged: float
    mape_divided: float
    scatter: float


@cache
def pairs(networks: frozenset[str] = frozenset()) -> Sequence[Pair]:
    """Every two thread counts of a network on a board, with one runtime and precision; of `networks` or of all."""
    found: list[Pair] = []
    for (board, runtime, precision), counts in _by_setting(networks).items():
        for before, rows in counts.items():
            fit = fit_stack(rows, start_of(board, runtime, precision, before), "")
            for after, others in counts.items():
                latency = {row.network: row.latency_s for row in others}
                found += [
                    Pair(board, runtime, precision, row.network, before, after, cost_shares(row.workload, fit),
                         latency[row.network] / row.latency_s)
                    for row in rows if after != before and row.network in latency
                ]  # fmt: skip
    return found


def fitted_shares(rows: Sequence[Pair]) -> Shares:
    """Shares with the least squared logarithmic error, robustly; every board counts alike."""
    weights = {board: 1 / np.sqrt(sum(row.board == board for row in rows)) for board in {row.board for row in rows}}
    scale = np.array([10 * weights[row.board] for row in rows])
    measured = np.log([row.ratio for row in rows])

    def errors(values: Array) -> Array:
        shares = Shares(*values)
        missed: Array = scale * (np.log([shares.predicted(row) for row in rows]) - measured)
        return missed

    found = least_squares(errors, [0.9, 0.3, 0.7, 0.1], bounds=(0, 1), loss="soft_l1", f_scale=0.5)
    return Shares(*(float(value) for value in found.x))


def thread_table(rows: Sequence[Pair], left_out: Callable[[Pair], str] = lambda row: row.board) -> list[Tally]:
    """Errors on each board with shares fitted on all the others."""
    found = []
    for name in sorted({left_out(row) for row in rows}):
        own = [row for row in rows if left_out(row) == name]
        shares = fitted_shares([row for row in rows if left_out(row) != name])
        measured = np.array([row.ratio for row in own])
        predicted = np.array([shares.predicted(row) for row in own])
        divided = np.array([row.before / row.after for row in own])
        spread = np.abs(np.log(predicted / measured)) / np.abs(np.log(divided))
        errors = [float(np.mean(np.abs(guess / measured - 1))) for guess in (predicted, np.ones(len(own)), divided)]
        scatter = float(np.sqrt(np.mean(spread**2)))
        found.append(Tally(name, len(own), errors[0], errors[1], errors[2], scatter))
    return found


def _by_setting(networks: frozenset[str]) -> Mapping[tuple[str, str, str], Mapping[int, list[Measured]]]:
    found: dict[tuple[str, str, str], dict[int, list[Measured]]] = {}
    for row in published_rows():
        if row["device"] not in _BOARDS or not row["threads"].isdigit() or not row["latency_ms"]:
            continue
        if not row["runtime"].startswith(("ncnn CPU", "TFLite 2.5", "ArmNN 21.05")) or row["batch"] != "1":
            continue
        name = canonical(row["model"])
        if networks and name not in networks:
            continue
        work = workload_of(name, row["input_shape"], FUSES) if name else None
        if work is None:
            continue
        work = work.at_precision(DTYPE_OF_PRECISION[row["precision"]])
        measured = Measured(f"{name}@{row['input_shape']}", family(row["model"]), work, float(row["latency_ms"]) / 1e3)
        setting = (row["device"], row["runtime"], row["precision"])
        found.setdefault(setting, {}).setdefault(int(row["threads"]), []).append(measured)
    return {setting: counts for setting, counts in found.items() if len(counts) > 1}


def start_of(board: str, runtime: str, precision: str, threads: int) -> LatencyFit:
    """A wide prior: a core's data sheet, its costs known to a factor of three as a whole."""
    peak, memory = _BOARDS[board]
    speed = peak * (1 if precision == "fp32" else 2) * threads**0.7
    winograd = precision != "int8" and "TFLite" not in runtime
    fit = prior_fit({precision: speed}, memory, "cpu", {"precision": precision, "winograd": winograd})
    return replace(fit, covariance=(np.array(fit.covariance) + 1.0).tolist())


def cost_shares(work: Workload, fit: LatencyFit) -> tuple[float, ...]:
    total = dict.fromkeys(CAUSES, 0.0)
    total["fixed"] = fit.fixed_s
    for op in work.operators:
        for cause, seconds in fit.terms(op).items():
            total[cause] += op.repeats * seconds
    whole = sum(total.values())
    return tuple(total[cause] / whole for cause in CAUSES)


@dataclass(frozen=True)
class Taken:
    """A stack that was taken to another's number of threads, on the rows of that one."""

    stack: str
    threads: int
    measured: str
    networks: int
    mape: float
    covered: float


def taken_stacks(networks: frozenset[str] = frozenset()) -> list[Taken]:
    """Every calibrated stack of which another differs in its threads alone, scaled to that one's number.

    Over `networks`, or over all that were measured at that number.
    """
    published = [row for row in published_rows() if not networks or canonical(row["model"]) in networks]
    found = []
    for name in target_names():
        stacks = load_target(name).stacks.values()
        for stack, other in ((a, b) for a in stacks for b in stacks if _only_threads_differ(a, b)):
            rows = list(measured_rows(other, published))
            if not rows or not other.threads:
                continue
            there = scaled(stack, threads=other.threads)
            guesses = [estimate(row.workload, there) for row in rows]
            errors = [abs(g.latency_s / row.latency_s - 1) for g, row in zip(guesses, rows, strict=True)]
            inside = [g.latency_interval_s[0] <= row.latency_s <= g.latency_interval_s[1]
                      for g, row in zip(guesses, rows, strict=True)]  # fmt: skip
            found.append(Taken(stack.id, other.threads, other.id, len(rows), mean(errors), mean(inside)))
    return found


def _only_threads_differ(one: Stack, other: Stack) -> bool:
    same = ("runtime", "runtime_version", "precision", "power_mode", "device_instance", "batch", "rules")
    alike = all(getattr(one, field) == getattr(other, field) for field in same)
    return bool(alike and one.latency.calibrated and one.threads and one.threads != other.threads)
