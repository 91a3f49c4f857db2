"""Several checks as one."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.errors import GeometryError
from toolkit.geometry.types import CheckReport

__all__ = ["combine", "describe"]


def combine(reports: Mapping[str, CheckReport]) -> CheckReport:
    """True when all of `reports` are; its value is the number that failed, and `detail` holds them by name.

    Raises:
        GeometryError: there is none: nothing was checked.
    """
    if not reports:
        raise GeometryError("no check to combine", hint="an empty list would pass without looking at anything")
    failed = [name for name in reports if not reports[name]]
    return CheckReport(not failed, float(len(failed)), 0.0, {**reports, "failed": failed})


def describe(report: CheckReport, *, name: str = "check") -> str:
    """One line for a report, and one for each report inside it."""
    verdict = "holds" if report else "fails"
    lines = [f"{name} {verdict}: {report.value:.6g} against {report.limit:.6g}"]
    for inner, detail in report.detail.items():
        if isinstance(detail, CheckReport):
            lines += [f"  {line}" for line in describe(detail, name=inner).splitlines()]
    return "\n".join(lines)
