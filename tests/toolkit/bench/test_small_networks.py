"""Networks that are hardly more than dispatch: what it costs is measured by itself, and floats in integer files cost
what floats do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from passes.contract import _predicted_slower
from passes.onnxruntime import Session
from passes.program import Program
from passes.recipe import RECIPES
from passes.running import run
from targets.cost import estimate
from targets.graph import read_workload
from targets.latency import CAUSES
from targets.prior import SPREAD
from targets.target import load_stack, load_target, prior_of
from toolkit.bench.dispatch import chain
from toolkit.bench.published import measured_rows, published_rows
from toolkit.calibration.measuring import lowered
from toolkit.sources import load_source

pytestmark = pytest.mark.slow

FLOAT, INTEGER = load_stack("desktop_cpu/onnxruntime-fp32"), load_stack("desktop_cpu/onnxruntime-int8")


@pytest.fixture(scope="module")
def digits() -> Program:
    return lowered(load_source("digits").program, INTEGER)


@pytest.mark.parametrize(("precision", "kinds"), [("fp32", {"Conv"}), ("int8", {"QLinearConv"})])
def test_a_chain_is_as_long_as_it_says_and_runs(precision: str, kinds: set[str]) -> None:
    for length in (1, 7):
        model = chain(precision, length)
        nodes = [node.op_type for node in onnx.load_from_string(model).graph.node]
        assert [kind for kind in nodes if kind in kinds] == [*kinds] * length
        assert set(nodes) - kinds == ({"QuantizeLinear", "DequantizeLinear"} if precision == "int8" else set())
        found = Session(model)({"x": np.ones((1, 16, 4, 4), np.float32)})["y"]
        assert found.shape == (1, 16, 4, 4)
        assert np.isfinite(found).all()


def test_what_was_measured_by_itself_is_known_better_than_what_was_not() -> None:
    for name, stack in load_target("desktop_cpu").stacks.items():
        prior = prior_of(load_target("desktop_cpu"), name)
        known = {cause: np.sqrt(prior.covariance[i][i]) for i, cause in enumerate(CAUSES)}
        stated = {"fixed": 0.1, "launch": 0.1} if stack.runtime == "onnxruntime" else {}
        assert known == pytest.approx({**SPREAD, **stated})


def test_rows_of_integers_are_priced_between_two_conversions() -> None:
    rows = [row for row in published_rows() if row["model"] == "mlperf-tiny:ds_cnn"]
    (integers,), (floats,) = (list(measured_rows(stack, rows)) for stack in (INTEGER, FLOAT))
    first, *_, last = integers.workload.operators
    assert (first.op_type, first.input_bytes, first.output_bytes) == ("QuantizeLinear", 4 * 490, 490)
    assert (last.op_type, last.input_bytes, last.output_bytes) == ("DequantizeLinear", 12, 4 * 12)
    assert len(integers.workload.operators) == len(floats.workload.operators) + 2


def test_floats_and_conversions_in_an_integer_file_cost_what_floats_do(digits: Program) -> None:
    work = read_workload(digits.static_model, fuses=INTEGER.fuses)
    for op, row in zip(work.operators, estimate(work, INTEGER).operators, strict=True):
        is_float = op.dtype == "float32" or op.op_type in ("QuantizeLinear", "DequantizeLinear")
        fit = FLOAT.latency if is_float else INTEGER.latency
        assert row.terms == pytest.approx(fit.terms(op)), op.name
        assert not row.extrapolated
    assert {op.dtype for op in work.operators} == {"float32", "int8", "uint8"}


def test_the_built_in_example_keeps_its_integers() -> None:
    """Measured on the processor of the rows, they take nine tenths of the time of floats."""
    from passes.context import Context
    from toolkit.models import digits as model

    source = load_source("digits").program
    made = run(RECIPES["int8"](INTEGER, source.level), source, Context(stack=INTEGER, data=model.calibration()))
    decisions = {proof.name: proof.decision for proof in made.proofs}
    assert decisions["QuantizeInt8"] == "kept"


def test_precisions_are_equally_fast_within_what_measurements_differ_by(digits: Program) -> None:
    from passes.context import Context

    source = load_source("digits").program
    ctx = Context(stack=INTEGER, data=None)
    made = run(RECIPES["float32"](INTEGER, source.level), source, ctx)
    proof = next(proof for proof in made.proofs if proof.name == "FoldConstants")
    for kind, factor, slower in (
        ("exact", 1.0005, False), ("exact", 1.02, True), ("approximate", 1.02, False), ("approximate", 1.04, True),
    ):  # fmt: skip
        found = _predicted_slower(replace(proof, kind=kind, cost_s=(1e-3, factor * 1e-3)), ctx)
        assert bool(found) is slower, (kind, factor)
