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
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

from toolkit.bench.scaling.clocks import clock_checks, mode_checks
from toolkit.bench.scaling.threads import fitted_shares, pairs, taken_stacks, thread_table

Found = TypeVar("Found")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.bench.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args().json
    rows = _told("pairs of rows", pairs)
    shares = _told("shares that threads divide", lambda: fitted_shares(rows))
    table = _told("boards that they were not fitted on", lambda: thread_table(rows))
    clocks, modes = _told("clocks", clock_checks), _told("modes and heat", mode_checks)
    taken = _told("whole stacks", taken_stacks)
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


def _told(what: str, make: Callable[[], Found]) -> Found:
    """Whoever waits is told what is made."""
    print(f"{what} ...", file=sys.stderr, flush=True)
    return make()


if __name__ == "__main__":
    main()
