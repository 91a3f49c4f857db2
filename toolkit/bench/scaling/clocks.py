"""Measured ratios of latencies, at two clocks, in two power modes, hot and cool, beside what scaling gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from targets.cost import estimate
from targets.fitting import Measured, fit_stack
from targets.latency import CAUSES
from targets.modes import Mode, Threading
from targets.scaling import KIND_OF_CAUSE, clock_factors, scaled, thread_factors
from targets.target import load_stack, load_target
from toolkit.bench.networks import canonical, family
from toolkit.bench.power import logged, workload_of_log
from toolkit.bench.published import published_rows, workload_of
from toolkit.bench.scaling.threads import FUSES, cost_shares, fitted_shares, pairs, start_of

__all__ = ["Check", "clock_checks", "mode_checks"]


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
        work = workload_of_log(row, FUSES) if row.system == wanted and row.precision == "fp32" else None
        if work is not None:
            rows.append(Measured(row.model, family(f"mlperf:{row.model}"), work, row.latency_s))
    start = start_of("Jetson AGX Xavier (CPU)", "TFLite" if tflite else "ArmNN", "fp32", 8)
    fit = fit_stack(rows, start, "")
    return next(cost_shares(row.workload, fit) for row in rows if row.network == "resnet50")


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
