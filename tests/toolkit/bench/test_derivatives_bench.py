"""The table of derivatives by sample: forms agree, operators do not grow with the dimension, no time is judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from toolkit.bench import derivatives as bench
from toolkit.timing import in_turns_s


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(runs: dict, *, seconds: float, fewest: int, clock: Callable[[], float]) -> dict[str, list[float]]:
        return in_turns_s(runs, seconds=0.0, fewest=1, clock=clock)

    monkeypatch.setattr(bench, "in_turns_s", once)


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
def test_operators_of_the_mapped_form_do_not_grow_with_the_dimension(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    symbols = [rows[f"Christoffel symbols, 64 points, n = {n}"] for n in (2, 4, 8)]
    by_rule, *by_qr = (row["mapped_operators"] for row in symbols)  # systems of two are solved by Cramer's rule
    assert len(set(by_qr)) == 1
    assert by_rule < 1.1 * by_qr[0]
    assert symbols[0]["plain_operators"] < symbols[1]["plain_operators"] < symbols[2]["plain_operators"]
    for n in (2, 4):
        curvature = rows[f"Riemann tensor, 64 points, n = {n}"]
        assert curvature["mapped_operators"] < curvature["plain_operators"] / 2


def test_forms_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(bench.cases())
    monkeypatch.setattr(bench, "in_turns_s", partial(pytest.fail, "timed"))
    with pytest.raises(ArithmeticError, match=r"Hamilton.s equations.* differ by 1\.0e-06"):
        bench.measure(replace(case, plain=lambda: case.mapped() + 1e-6))


def test_the_plain_form_of_a_symmetric_metric_is_the_full_derivative() -> None:
    metric = bench._metric(3)
    x = bench._points(3).requires_grad_()
    half = bench._metric_slopes(metric(x), x)
    whole = bench._slopes(metric(x), x)
    torch.testing.assert_close(half, whole, rtol=1e-13, atol=1e-14)


@pytest.mark.usefixtures("hasty")
def test_the_table_names_both_forms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(bench.cases())
    monkeypatch.setattr(bench, "cases", lambda: iter([first]))
    assert bench.main([]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("Hamilton's equations, 256 x 8")
    assert "vmap" in line
    assert "plain" in line
    assert line.endswith("x")
