"""Arguments that several benchmarks take."""

from __future__ import annotations

import argparse

from targets.errors import UnknownName
from targets.target import shipped_target

__all__ = ["add_targets"]


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Names of devices; a wrong one ends with what was meant."""
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", type=_target, help="of `toolkit targets`; all by default"
    )


def _target(name: str) -> str:
    try:
        return shipped_target(name).name
    except UnknownName as error:
        raise argparse.ArgumentTypeError(f"{error.problem}; {error.hint}") from error
