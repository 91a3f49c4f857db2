"""The program `runner`: a bundle's answers to a file, its golden samples, or its latency on this machine."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from targets.errors import ToolkitError, UsageError
from toolkit.bundle.layout import GRAPH
from toolkit.runner.opening import Opened, open_bundle

__all__ = ["main"]

_INTERNAL, _INTERRUPTED, _NEGATIVE = 70, 130, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code: 0 ok, 1 other answers, 2 usage, 5 invalid input, 70 internal error."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(_parser().parse_args(argv or ["--help"]))
    except ToolkitError as error:
        return _fail("--json" in argv, error.problem, error.hint, error.exit_code)
    except KeyboardInterrupt:
        return _fail("--json" in argv, "interrupted", "run it again", _INTERRUPTED)
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return _fail("--json" in argv, text, "this is a bug: please report it with the command", _INTERNAL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runner",
        description="Run a compiled model on this machine. Every file is checked against its hash first.",
        epilog="exit codes: 0 ok, 1 other answers than were recorded, 2 usage, 5 invalid input, 70 internal error",
    )
    parser.add_argument(
        "input", nargs="?", metavar="INPUT", help="samples: .npy, .npz, .wav, an image, a folder of .npy or of images"
    )
    parser.add_argument("--self-test", action="store_true", help="golden samples: are the answers those recorded?")
    parser.add_argument(
        "--bench", type=int, metavar="N", help="time N inferences; prints a table for `toolkit calibrate`, to be kept "
        "beside the bundle's folder",
    )  # fmt: skip
    parser.add_argument("--preprocess", metavar="TEXT", help="how images become inputs; as in calibration by default")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of one operator [1]")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="another bundle than the one around this program")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def _run(given: argparse.Namespace) -> int:
    if (given.input is not None) + given.self_test + (given.bench is not None) != 1:
        raise UsageError("give either an INPUT, --self-test or --bench N", hint="runner --help")
    if given.threads < 1 or (given.bench is not None and given.bench < 1):
        raise UsageError("--threads and --bench count from one", hint="runner --help")
    opened = open_bundle(given.bundle or _around(), threads=given.threads)
    if given.self_test:
        return _self_test(opened, given.json)
    if given.bench:
        return _bench(opened, given.bench, given.json)
    return _answer(opened, given.input, given.preprocess, given.json)


def _around() -> Path:
    """The bundle whose folder run/ this program lies in; see toolkit.standalone.one_file for the variable."""
    frozen = os.environ.get("TOOLKIT_RUNNER_FILE", sys.executable)
    return Path(frozen if getattr(sys, "frozen", False) else sys.argv[0]).resolve().parent.parent


def _answer(opened: Opened, file: str, preprocess: str | None, as_json: bool) -> int:
    from toolkit.answers import lines, plain, stacked
    from toolkit.data import check_preprocess_used, load_data

    data = load_data(file, opened.signature, preprocess=opened.preprocess if preprocess is None else preprocess)
    check_preprocess_used(preprocess, data)
    outputs = stacked([opened(sample) for sample in data])
    if as_json:
        _show({"schema": "toolkit.run/1", "outputs": {name: plain(values) for name, values in outputs.items()}})
    else:
        print("\n".join(lines(outputs)))
    return 0


def _self_test(opened: Opened, as_json: bool) -> int:
    from toolkit import units
    from toolkit.verify.golden import judged

    samples = opened.golden
    result = judged(samples, [opened(golden.inputs) for golden in samples])
    if as_json:
        _show(result.to_json())
    else:
        by = f" ({GRAPH} through onnxruntime; the device runs {opened.lowered})" if opened.lowered else ""
        print(
            f"{opened.name}: {result.samples} golden samples{by}: {units.decibels(result.sqnr_db)} against the answers"
            f" recorded (needed: {units.decibels(result.floor_db)})"
        )
        print("passed" if result.passed else "FAILED: the answers on this machine are not those recorded")
    return 0 if result.passed else _NEGATIVE


def _bench(opened: Opened, runs: int, as_json: bool) -> int:
    row = _row(opened, runs)
    if as_json:
        latency_s = float(row.pop("latency_ms")) / 1e3
        _show({"schema": "toolkit.runner.bench/1", "runs": runs, "latency_s": latency_s, **row})
        return 0
    table = csv.DictWriter(sys.stdout, row, lineterminator="\n")
    table.writeheader()
    table.writerow(row)
    return 0


def _row(opened: Opened, runs: int) -> dict[str, str]:
    """A line of a table of measurements; see toolkit.calibration.rows."""
    from targets.target import shipped_stack
    from toolkit.calibration.rows import COLUMNS
    from toolkit.calibration.setting import setting
    from toolkit.calibration.timing import fastest_half_s
    from toolkit.input_shapes import spelled

    sample = opened.golden[0].inputs
    opened.signature.check_inputs(sample)
    seconds = fastest_half_s(opened.session, sample, threads=opened.threads, enough=lambda done: done >= runs)
    return {
        **dict.fromkeys(COLUMNS, ""),
        **setting(shipped_stack(opened.stack), threads=opened.threads),
        "batch": "1",
        "model": opened.name,
        "input_shape": spelled(sample),
        "latency_ms": f"{seconds * 1e3:.5g}",
        "source_title": "measured by the runner of a bundle",
        "source_ref": f"median of the fastest half of {runs} runs",
        "path": f"{opened.folder.resolve().name}/{GRAPH}",
    }


def _show(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False))


def _fail(as_json: bool, problem: str, hint: str, code: int) -> int:
    print(f"error: {problem}\n  next: {hint}", file=sys.stderr)
    if as_json:
        _show({"schema": "toolkit.error/1", "problem": problem, "hint": hint, "exit_code": code})
    return code


if __name__ == "__main__":
    sys.exit(main())
