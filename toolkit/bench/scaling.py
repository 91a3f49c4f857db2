"""Scaled stacks beside published rows: threads, clocks, power modes and heat.

    python -m toolkit.bench.scaling [--json]

- threads: networks that were timed with one and with more threads. A stack's costs are fitted at each count; the
  measured latency at one count, times the factor that `targets.scaling` gives, is held against that at the other. The
  shares that threads divide are fitted on all boards but the one that is tested. Beside it: threads that change
  nothing, and threads that divide everything. Then whole stacks as `--threads` takes them to another's number, with the
  shares of their profiles, which were fitted on these boards too.
- clocks: the processor of AGX Xavier in its power modes (ResNet-50, power logs), and Raspberry Pi 4 at 1.5 and 1.8 GHz.
  No pair of rows changes the clock of a Pi alone: the versions of the runtimes differ too.
- modes and heat: ratios that profiles state as measured, on each network.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from statistics import mean, median
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from targets.cost import estimate
from targets.fitting import Measured, fit_stack
from targets.latency import CAUSES, LatencyFit
from targets.modes import Mode, Threading
from targets.prior import prior_fit
from targets.scaling import KIND_OF_CAUSE, clock_factors, scaled, thread_factors
from targets.stack import Stack
from targets.target import load_stack, load_target, target_names
from targets.workload import Workload
from toolkit.bench.networks import canonical, family
from toolkit.bench.power import logged, workload_of_log
from toolkit.bench.published import measured_rows, published_rows, workload_of

__all__ = [
    "Check", "Pair", "Shares", "Taken", "Tally", "clock_checks", "fitted_shares", "mode_checks", "pairs",
    "taken_stacks", "thread_table",
]  # fmt: skip

Array = np.ndarray[Any, Any]
_KINDS = ("core", "bytes", "host")
_FUSES = frozenset({"batch_norm", "activation"})
_DTYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
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


# ---- threads


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
            fit = fit_stack(rows, _start(board, runtime, precision, before), "")
            for after, others in counts.items():
                latency = {row.network: row.latency_s for row in others}
                found += [
                    Pair(board, runtime, precision, row.network, before, after, _parts(row.workload, fit),
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
        work = workload_of(name, row["input_shape"], _FUSES) if name else None
        if work is None:
            continue
        measured = Measured(
            f"{name}@{row['input_shape']}", family(row["model"]), work.at_precision(_DTYPES[row["precision"]]),
            float(row["latency_ms"]) / 1e3,
        )  # fmt: skip
        setting = (row["device"], row["runtime"], row["precision"])
        found.setdefault(setting, {}).setdefault(int(row["threads"]), []).append(measured)
    return {setting: counts for setting, counts in found.items() if len(counts) > 1}


def _start(board: str, runtime: str, precision: str, threads: int) -> LatencyFit:
    """A wide prior: a core's data sheet, its costs known to a factor of three as a whole."""
    peak, memory = _BOARDS[board]
    speed = peak * (1 if precision == "fp32" else 2) * threads**0.7
    winograd = precision != "int8" and "TFLite" not in runtime
    fit = prior_fit({precision: speed}, memory, "cpu", {"precision": precision, "winograd": winograd})
    return replace(fit, covariance=(np.array(fit.covariance) + 1.0).tolist())


def _parts(work: Workload, fit: LatencyFit) -> tuple[float, ...]:
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


# ---- clocks, modes and heat


@dataclass(frozen=True)
class Check:
    """A ratio of two latencies that was measured, beside what scaling gives."""

    what: str
    networks: int
    measured: float
    predicted: float
    note: str = ""

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def clock_checks() -> list[Check]:
    """Ratios of latencies at two clocks."""
    return [*_xavier_checks(), *_raspberry_checks()]


_XAVIER = {"0": (2265.6, 2133, 8), "2": (1200, 1333, 4), "3": (1200, 1600, 8), "4": (1450, 1600, 6),
           "5": (1780, 1600, 4)}  # fmt: skip
"""Clock of the processor and of the memory in MHz, and cores, of AGX Xavier's power modes by their number."""


def _xavier_checks() -> Iterator[Check]:
    for runtime, full_round in (("tflite-v2.5.0-ruy", "v1.1"), ("armnn-v21.05-neon", "v1.1")):
        rows = {row.system.split("-")[1].removeprefix("power."): row for row in logged()
                if row.round == full_round and row.model == "resnet50" and row.system.startswith("xavier")
                and row.system.endswith(runtime)}  # fmt: skip
        parts = _xavier_parts("tflite" in runtime)
        for base in ("0", "3"):
            for number in sorted(rows.keys() - {"0", base}):
                predicted = _xavier_factor(parts, base, number)
                measured = rows[number].latency_s / rows[base].latency_s
                yield Check(f"AGX Xavier CPU, {runtime}: mode {base} to {number}", 1, measured, predicted,
                            "clock, memory and cores at once")  # fmt: skip


def _xavier_parts(tflite: bool) -> tuple[float, ...]:
    """Shares by cause of ResNet-50 on that processor in its fastest mode, from the networks of the same round."""
    wanted = "xavier-power.0-fan.cool-" + ("tflite-v2.5.0-ruy" if tflite else "armnn-v21.02-neon")
    rows = []
    for row in logged():
        work = workload_of_log(row, _FUSES) if row.system == wanted and row.precision == "fp32" else None
        if work is not None:
            rows.append(Measured(row.model, family(f"mlperf:{row.model}"), work, row.latency_s))
    start = _start("Jetson AGX Xavier (CPU)", "TFLite" if tflite else "ArmNN", "fp32", 8)
    fit = fit_stack(rows, start, "")
    return next(_parts(row.workload, fit) for row in rows if row.network == "resnet50")


def _xavier_factor(parts: Sequence[float], before: str, after: str) -> float:
    modes = [
        Mode(core_hz=core * 1e6, memory_hz=memory * 1e6, source="NVIDIA") for core, memory, _ in
        (_XAVIER[before], _XAVIER[after])
    ]  # fmt: skip
    clocks = clock_factors(*modes)
    shares = fitted_shares(pairs())
    threading = Threading(cores=8, core=shares.core, bytes=shares.wide_bytes, host=shares.host, scatter=0, source="-")
    threads = thread_factors(threading, _XAVIER[before][2], _XAVIER[after][2])
    return sum(
        part * clocks[KIND_OF_CAUSE[cause]] * threads[KIND_OF_CAUSE[cause]]
        for part, cause in zip(parts, CAUSES, strict=True)
    )


def _raspberry_checks() -> Iterator[Check]:
    slow, fast = "BCM2711 Cortex-A72 1.5GHz", "BCM2711 Cortex-A72 1.8GHz"
    for precision in ("fp32", "int8"):
        stack = load_stack(f"raspberry_pi_4/tflite-{precision}")
        slower = scaled(stack, mode="1.5GHz")
        before = _latencies(slow, "TFLite 2.4.1", precision)
        after = _latencies(fast, "TFLite 2.7.1", precision)
        ratios, guesses = [], []
        for key in before.keys() & after.keys():
            name = canonical(key[0])
            work = workload_of(name, key[1], stack.fuses) if name else None
            if work is None:
                continue
            ratios.append(after[key] / before[key])
            guesses.append(estimate(work, stack).latency_s / estimate(work, slower).latency_s)
        yield Check(f"Raspberry Pi 4, TFLite {precision}: 1.5 to 1.8 GHz", len(ratios), median(ratios),
                    median(guesses), "TFLite 2.4.1 against 2.7.1: the version changes too")  # fmt: skip


def mode_checks() -> list[Check]:
    """Ratios that profiles state as measured: each network beside the profile's one figure."""
    found = []
    for device, name in (("Jetson AGX Xavier", "jetson_agx_xavier"), ("Jetson Xavier NX", "jetson_xavier_nx"),
                         ("Jetson AGX Orin", "jetson_agx_orin")):  # fmt: skip
        plain = _latencies("GPU+2xDLA", "TensorRT", "int8/fp16 mixed (per MLPerf submission)", device)
        slow = _latencies("GPU+2xDLA MaxQ", "TensorRT", "int8/fp16 mixed (per MLPerf submission)", device)
        stated = load_target(name).settings.modes["MaxQ"].slower
        found += [
            Check(f"{device}: default to MaxQ, {key[0].removeprefix('mlperf:')}", 1, slow[key] / plain[key], stated,
                  "one figure for all networks")
            for key in sorted(slow.keys() & plain.keys())
        ]  # fmt: skip
    hot = load_target("raspberry_pi_4").settings.sustained
    for runtime in ("TFLite 2.4.1", "TFLite 2.5.0", "ArmNN Neon 21.05"):
        on = _latencies("BCM2711 Cortex-A72 1.5GHz", runtime, "fp32")
        off = _latencies("BCM2711 Cortex-A72 1.5GHz fan.off", runtime, "fp32")
        found += [Check(f"Raspberry Pi 4, {runtime}: fan on to off", 1, off[key] / on[key], hot.slower if hot else 1.0,
                        "ResNet-50 for ten minutes") for key in off.keys() & on.keys()]  # fmt: skip
    return found


def _latencies(
    variant: str, runtime: str, precision: str, device: str = "Raspberry Pi 4B"
) -> dict[tuple[str, str], float]:
    """Seconds by model and input shape; the last row where a submission was repeated."""
    return {
        (row["model"], row["input_shape"]): float(row["latency_ms"]) / 1e3
        for row in published_rows()
        if (row["device"], row["device_variant"], row["runtime"], row["precision"], row["batch"])
        == (device, variant, runtime, precision, "1")
        and row["latency_ms"]
    }


# ---- printing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args().json
    rows = pairs()
    shares, table = fitted_shares(rows), thread_table(rows)
    clocks, modes, taken = clock_checks(), mode_checks(), taken_stacks()
    if as_json:
        document = {
            "schema": "toolkit.bench.scaling/1",
            "shares": asdict(shares),
            "threads": [asdict(row) for row in table],
            "stacks": [asdict(line) for line in taken],
            "clocks": [{**asdict(check), "error": check.error} for check in clocks],
            "modes": [{**asdict(check), "error": check.error} for check in modes],
        }
        print(json.dumps(document, indent=1))
        return
    print(f"shares that threads divide: arithmetic {shares.core:.2f}, traffic {shares.narrow_bytes:.2f} (32-bit "
          f"memory) and {shares.wide_bytes:.2f} (wider), dispatch {shares.host:.2f}\n")  # fmt: skip
    print(f"{'board that the shares were not fitted on':42} pairs    MAPE  unchanged  divided by n  scatter")
    for row in table:
        print(f"{row.board:42} {row.pairs:5}  {row.mape:6.1%}     {row.mape_unchanged:6.1%}        "
              f"{row.mape_divided:6.1%}     {row.scatter:.2f}")  # fmt: skip
    print(f"\n{'stack taken to other threads':44} threads  networks    MAPE  in interval")
    for line in taken:
        print(f"{line.stack:44} {line.threads:7}  {line.networks:8}  {line.mape:6.1%}  {line.covered:11.0%}")
    for title, checks in (("clocks", clocks), ("modes and heat, as profiles state them", modes)):
        print(f"\n{title:64} measured  scaled   error")
        for check in checks:
            print(f"{check.what:64} {check.measured:8.2f} {check.predicted:7.2f}  {check.error:+6.1%}  {check.note}")


if __name__ == "__main__":
    main()
