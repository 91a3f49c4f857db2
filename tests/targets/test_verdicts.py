"""A verdict at its borders: an interval that touches a limit from below fits, one that crosses it is uncertain."""

import json
from dataclasses import replace
from typing import Any

import pytest

from targets.cost import estimate
from targets.estimate import OperatorCost
from targets.operators import Product
from targets.stack import Stack
from targets.target import load_stack, load_target, target_names
from targets.verdict import Limits, Outcome, is_cause, judge, leaving_price
from targets.workload import Operator, Workload


def work() -> Workload:
    op = Operator(
        name="c", op_type="Conv", op_class="conv3x3", dtype="float32", product=Product(10**4, 10**2, 10**2),
        input_bytes=1000, output_bytes=1000,
        weight_bytes=10**6, reads=("x",), writes=("y",), rank=4,
    )  # fmt: skip
    return Workload(name="n", operators=(op,), tensor_bytes={"x": 1000, "y": 1000}, inputs=("x",), outputs=("y",))


@pytest.fixture
def stack() -> Stack:
    return load_stack("desktop_cpu/onnxruntime-fp32")


FIELDS = {
    "latency_s": "latency_interval_s",
    "memory_bytes": "memory_interval_bytes",
    "energy_j": "energy_interval_j",
}


@pytest.mark.parametrize("quantity", FIELDS)
def test_the_borders(stack: Stack, quantity: str) -> None:
    found = estimate(work(), stack)
    low, high = getattr(found, FIELDS[quantity])
    step: Any = 1 if quantity == "memory_bytes" else high * 1e-12
    assert low < high
    for limit, outcome in (
        (high + step, Outcome.FITS),
        (high, Outcome.FITS),
        (high - step, Outcome.UNCERTAIN),
        (low, Outcome.UNCERTAIN),
        (low - step, Outcome.DOES_NOT_FIT),
    ):
        verdict = judge(found, Limits(**{quantity: limit}))
        (check,) = verdict.checks
        assert (check.quantity, check.limit, check.interval) == (quantity, limit, (low, high))
        assert check.outcome is outcome
        assert verdict.outcome is outcome


def test_the_worst_check_decides(stack: Stack) -> None:
    found = estimate(work(), stack)
    low, high = found.latency_interval_s
    middle = (low + high) / 2
    for latency, memory, outcome in (
        (high, 10**12, Outcome.FITS),
        (middle, 10**12, Outcome.UNCERTAIN),
        (middle, 1, Outcome.DOES_NOT_FIT),
        (low / 2, 10**12, Outcome.DOES_NOT_FIT),
    ):
        assert judge(found, Limits(latency_s=latency, memory_bytes=memory)).outcome is outcome


def test_without_limits_everything_fits(stack: Stack) -> None:
    verdict = judge(estimate(work(), stack), Limits())
    assert verdict.checks == ()
    assert verdict.outcome is Outcome.FITS


def test_a_limit_of_zero_is_a_limit(stack: Stack) -> None:
    assert judge(estimate(work(), stack), Limits(latency_s=0.0)).outcome is Outcome.DOES_NOT_FIT


@pytest.mark.parametrize("name", target_names())
def test_a_device_brings_its_limits(name: str) -> None:
    target = load_target(name)
    limits = Limits.of(target)
    assert (limits.latency_s, limits.memory_bytes) == (target.latency_target_s, target.usable_memory_bytes)
    verdict = judge(estimate(work(), target.stack()), limits)
    assert [check.quantity for check in verdict.checks] == ["latency_s", "memory_bytes"]
    document = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert document["outcome"] in {"fits", "uncertain", "does not fit"}
    assert document["outcome"] == str(verdict.outcome)


def test_the_price_of_leaving_adds_up() -> None:
    """The cause, the copies over the link, and those that leave because it does; what stays costs nothing here."""

    def row(name: str, reason: str, **terms: float) -> OperatorCost:
        return OperatorCost(
            name=name, op_type="Conv", op_class="conv", dtype="int8", place="host" if reason else "edgetpu", macs=1,
            latency_s=sum(terms.values()), energy_j=0.0, terms=terms, bound="arithmetic", extrapolated=False,
            reason=reason,
        )  # fmt: skip

    after = "it comes after b, which leaves the accelerator"
    cause = row("b", "Conv is not in the operator list of edgetpu", arithmetic=2.0, transfer=0.5)
    rows = (row("a", "", arithmetic=9.0), cause, row("c", after, arithmetic=4.0), row("d", after, transfer=0.25))
    found = replace(estimate(work(), load_stack("coral_tpu/usb3-desktop")), operators=rows)
    assert [op.name for op in rows if is_cause(op)] == ["b"]
    assert leaving_price(cause, found) == {"own_s": 2.0, "copies_s": 0.75, "dragged_s": 4.0, "total_s": 6.75}
