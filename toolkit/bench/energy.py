"""Predicted watts and joules beside published power logs.

    python -m toolkit.bench.energy [--json]

For each stack that logs exist for: the active power of its profile against the mean watts of every network; joules of
an inference as that power times the measured latency (power's own error), and as the estimate gives them with its
interval. The profiles' power comes from these logs, as their sources say, so its mean error is small by design: what
the table shows is how far networks scatter around one figure, and whether the intervals hold them. Latencies of the
Raspberry Pi were fitted to runs of the same submissions; those of the Jetsons' MaxQ mode were not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from targets.cost import estimate
from targets.energy import energy_interval
from targets.scaling import scaled
from targets.stack import Stack
from targets.target import load_stack
from toolkit import units
from toolkit.bench.power import Logged, logged, workload_of_log

__all__ = ["LOGS", "Log", "Network", "Summary", "networks", "summary"]


@dataclass(frozen=True)
class Log:
    """Runs of one system, and the stack and mode that predict them; `precision` empty for a mixed one."""

    system: str
    rounds: tuple[str, ...]
    precision: str
    stack: str
    mode: str = ""


LOGS: Sequence[Log] = (
    Log("rpi4-tflite-v2.7.1-ruy", ("v2.0",), "fp32", "raspberry_pi_4/tflite-fp32"),
    Log("rpi4-tflite-v2.7.1-ruy", ("v2.0",), "int8", "raspberry_pi_4/tflite-int8"),
    Log("rpi4-armnn-v21.11-neon", ("v2.0",), "fp32", "raspberry_pi_4/armnn-fp32"),
    Log("rpi4-armnn-v21.11-neon", ("v2.0",), "int8", "raspberry_pi_4/armnn-int8"),
    Log("AGX_Xavier_TRT_MaxQ", ("v1.0", "v1.1"), "", "jetson_agx_xavier/tensorrt-int8", "MaxQ"),
    Log("Xavier_NX_TRT_MaxQ", ("v1.0", "v1.1", "v2.0"), "", "jetson_xavier_nx/tensorrt-int8", "MaxQ"),
    Log("Orin_TRT_MaxQ", ("v2.0", "v2.1", "v3.0"), "", "jetson_agx_orin/tensorrt-int8", "MaxQ"),
)


@dataclass(frozen=True)
class Network:
    """One logged network; joules of one inference."""

    model: str
    round: str
    logged_w: float
    predicted_w: float
    logged_j: float
    by_power_j: float
    predicted_j: float
    interval_j: tuple[float, float]
    independent_j: tuple[float, float]

    @property
    def covered(self) -> bool:
        return self.interval_j[0] <= self.logged_j <= self.interval_j[1]

    @property
    def covered_independent(self) -> bool:
        """In the interval of errors of power and latency that do not come together."""
        return self.independent_j[0] <= self.logged_j <= self.independent_j[1]


@dataclass(frozen=True)
class Summary:
    """Mean absolute errors of one stack's networks; `covered` is the share whose joules the interval holds."""

    stack: str
    mode: str
    networks: int
    logged_w: float
    predicted_w: float
    power_error: float
    energy_error: float
    covered: float
    covered_independent: float
    not_built: int


def networks(log: Log) -> tuple[list[Network], int]:
    """The log's networks that are defined here, and the number of those that are not."""
    stack = scaled(load_stack(log.stack), mode=log.mode)
    rows = [
        row for row in logged()
        if row.system == log.system and row.round in log.rounds and log.precision in ("", row.precision)
    ]  # fmt: skip
    found = [network for row in rows if (network := _network(row, stack)) is not None]
    return found, len(rows) - len(found)


def _network(row: Logged, stack: Stack) -> Network | None:
    work = workload_of_log(row, stack.fuses)
    if work is None:
        return None
    guess = estimate(work, stack)
    return Network(
        model=row.model,
        round=row.round,
        logged_w=row.watts,
        predicted_w=stack.power.active_w,
        logged_j=row.energy_j,
        by_power_j=stack.power.active_w * row.latency_s,
        predicted_j=guess.energy_j,
        interval_j=guess.energy_interval_j,
        independent_j=energy_interval(
            guess.energy_j, guess.latency_s, guess.latency_interval_s, stack.power.uncertainty
        ),
    )


def summary(log: Log) -> tuple[Summary, list[Network]]:
    """Errors over the networks of a log, and each of them."""
    found, missing = networks(log)
    count = max(len(found), 1)
    line = Summary(
        stack=log.stack,
        mode=log.mode,
        networks=len(found),
        logged_w=sum(n.logged_w for n in found) / count,
        predicted_w=sum(n.predicted_w for n in found) / count,
        power_error=sum(abs(n.by_power_j / n.logged_j - 1) for n in found) / count,
        energy_error=sum(abs(n.predicted_j / n.logged_j - 1) for n in found) / count,
        covered=sum(n.covered for n in found) / count,
        covered_independent=sum(n.covered_independent for n in found) / count,
        not_built=missing,
    )
    return line, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args().json
    found = [summary(log) for log in LOGS]
    if as_json:
        rows = [{**asdict(line), "rows": [asdict(n) for n in each]} for line, each in found]
        document: Mapping[str, Any] = {"schema": "toolkit.bench.energy/1", "stacks": rows}
        print(json.dumps(document, indent=1))
        return
    print(f"{'stack':44} {'n':>3}  logged W  profile W  J by power  J predicted  in interval  independent  not built")
    for line, _ in found:
        name = f"{line.stack}{', ' + line.mode if line.mode else ''}"
        print(f"{name:44} {line.networks:3}  {line.logged_w:8.2f}  {line.predicted_w:9.2f}  {line.power_error:10.1%}  "
              f"{line.energy_error:11.1%}  {line.covered:11.0%}  "
              f"{line.covered_independent:11.0%}  {line.not_built:9}")  # fmt: skip
    for line, each in found:
        print(f"\n{line.stack}{', ' + line.mode if line.mode else ''}")
        for n in each:
            print(f"  {n.round} {n.model:46} logged {units.joules(n.logged_j):>8}  predicted "
                  f"{units.joules(n.predicted_j):>8}  {n.predicted_j / n.logged_j - 1:+6.1%}  "
                  f"{'' if n.covered else 'outside its interval'}".rstrip())  # fmt: skip


if __name__ == "__main__":
    main()
