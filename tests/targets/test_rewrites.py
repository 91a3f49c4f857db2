"""Remedies for refused operators: for real operators, that the accelerator really refuses, gathered by cause."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import onnx.defs
import pytest

from targets.operators import VIEWS
from targets.rewrites import refusals_by_cause, rewrite_for
from targets.support import load_rules, rule_names

TABLES = tomllib.loads((Path(__file__).parents[2] / "targets" / "rewrites.toml").read_text("utf-8"))


def test_every_remedy_is_for_an_operator_that_some_accelerator_refuses() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert set(TABLES["operators"]) <= known - VIEWS
    for name in rule_names():
        assert set(TABLES["operators"]).isdisjoint(load_rules(name).operators), name


@pytest.mark.parametrize(
    ("op_type", "reason", "remedy"),
    [
        ("HardSwish", "HardSwish is not in the operator list of edgetpu", "ReLU6"),
        ("HardSwish", "it computes in float32, edgetpu needs int8", "--data"),
        ("Conv", "its output has 5 dimensions, edgetpu takes 4", "four dimensions"),
        ("MatMul", "its weights are not constant", "product of two activations"),
        ("Conv", "its shape is not static", "--input"),
        ("Swirl", "Swirl is not in the operator list of edgetpu", ""),
    ],
)
def test_the_reason_decides_before_the_operator(op_type: str, reason: str, remedy: str) -> None:
    found = rewrite_for(op_type, reason)
    assert remedy in found
    assert bool(found) == bool(remedy)


def row(op_type: str, name: str, latency_s: float, reason: str, source: str = "") -> dict[str, Any]:
    return {"op_type": op_type, "name": name, "latency_s": latency_s, "reason": reason, "source": source}


def test_refusals_are_gathered_causes_first() -> None:
    after = "it comes after e, which leaves the accelerator"
    rows = [
        row("Conv", "c1", 1.0, ""),
        row("Conv", "c2", 5.0, after),
        row("Relu", "r", 2.0, after, source="net.py:3"),
        row("Elu", "e", 0.5, "Elu is not in the operator list of edgetpu", source="net.py:2"),
        row("Elu", "f", 0.7, "Elu is not in the operator list of edgetpu"),
        row("Gelu", "g", 0.9, "Gelu is not in the operator list of edgetpu"),
    ]
    found = refusals_by_cause(rows)
    assert [(r.op_types, r.count, r.where, r.follows) for r in found] == [
        (("Elu",), 2, "f", False),
        (("Gelu",), 1, "g", False),
        (("Conv", "Relu"), 2, "c2", True),
    ]
    assert [r.latency_s for r in found] == pytest.approx([1.2, 0.9, 7.0])
    assert refusals_by_cause(rows[:1]) == []
