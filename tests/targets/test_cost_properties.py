"""Properties of the cost model over every stack of every profile."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.cost import estimate
from targets.errors import UnknownName
from targets.latency import CAUSES
from targets.memory import peak_memory
from targets.operators import CLASSES, MAC_CLASSES, NOTHING, Product
from targets.stack import Stack
from targets.support import load_rules, place
from targets.target import load_stack, load_target, target_names
from targets.workload import Operator, Workload

STACKS = [stack for name in target_names() for stack in load_target(name).stacks.values()]
any_stack = st.sampled_from(STACKS)
ACCELERATORS = [stack for stack in STACKS if stack.rules]
each_accelerator = pytest.mark.parametrize("stack", ACCELERATORS, ids=lambda s: s.id)
TYPE_OF_CLASS = {
    **dict.fromkeys(("conv3x3", "conv", "pointwise", "depthwise"), "Conv"),
    "matmul": "Gemm", "recurrent": "LSTM", "pool": "MaxPool", "elementwise": "Relu", "copy": "Concat",
    "unknown": "acme.Swirl",
}  # fmt: skip


def operator(step: int, op_class: str, macs: int, out: int, weights: int, dtype: str, before: int) -> Operator:
    arithmetic = op_class in MAC_CLASSES
    return Operator(
        name=f"op{step}", op_type=TYPE_OF_CLASS[op_class], op_class=op_class, dtype=dtype,
        product=Product(macs, 1, 1) if arithmetic else NOTHING,
        input_bytes=before, output_bytes=out, weight_bytes=weights if arithmetic else 0,
        reads=(f"t{step}",), writes=(f"t{step + 1}",), rank=4,
    )  # fmt: skip


@st.composite
def workloads(draw: st.DrawFn, classes: tuple[str, ...] = CLASSES) -> Workload:
    dtype = draw(st.sampled_from(["float32", "int8"]))
    sizes = [draw(st.integers(1, 10**6))]
    operators = []
    for step in range(draw(st.integers(1, 6))):
        sizes.append(draw(st.integers(1, 10**6)))
        row = draw(st.sampled_from(classes)), draw(st.integers(1, 10**10)), sizes[-1], draw(st.integers(1, 10**7))
        operators.append(operator(step, *row, dtype, sizes[-2]))
    return Workload(
        name="chain", operators=tuple(operators), tensor_bytes={f"t{i}": size for i, size in enumerate(sizes)},
        inputs=("t0",), outputs=(f"t{len(operators)}",),
    )  # fmt: skip


def extended(work: Workload, op: Operator) -> Workload:
    """`op` behind the last operator, on its result and of the same size."""
    steps = len(work.operators)
    size = work.tensor_bytes[f"t{steps}"]
    op = replace(op, name=f"op{steps}", reads=(f"t{steps}",), writes=(f"t{steps + 1}",), input_bytes=size,
                 output_bytes=size, dtype=work.operators[0].dtype)  # fmt: skip
    return replace(
        work, operators=(*work.operators, op), tensor_bytes={**work.tensor_bytes, f"t{steps + 1}": size},
        outputs=(f"t{steps + 1}",),
    )  # fmt: skip


@given(workloads(), any_stack)
def test_an_estimate_is_the_sum_of_its_rows(work: Workload, stack: Stack) -> None:
    found = estimate(work, stack)
    assert found.latency_s == pytest.approx(found.fixed_s + sum(row.latency_s for row in found.operators), rel=1e-12)
    assert found.macs == work.macs
    streams = [row for row in found.operators if row.op_type == "Stream"]
    assert [row.name for row in found.operators if row not in streams] == [op.name for op in work.operators]
    for row in found.operators:
        assert sum(row.terms.values()) == pytest.approx(row.latency_s, rel=1e-12)
        assert row.terms[row.bound] == max(row.terms.values())
        assert min(row.terms.values()) >= 0
        assert row.latency_s > 0


@given(workloads(), any_stack)
def test_the_energy_of_the_rows_adds_up_to_the_estimate(work: Workload, stack: Stack) -> None:
    found = estimate(work, stack)
    rows = stack.power.active_w * found.fixed_s + sum(row.energy_j for row in found.operators)
    assert found.energy_j == pytest.approx(rows, rel=1e-9)


@given(workloads(), any_stack)
def test_energy_is_power_times_time_where_all_runs_in_one_place(work: Workload, stack: Stack) -> None:
    found = estimate(work, stack)
    power = stack.power
    if not stack.rules:
        assert found.energy_j == pytest.approx(power.active_w * found.latency_s, rel=1e-12)
        low, high = (bound / found.latency_s for bound in found.latency_interval_s)
        least, most = (bound / found.energy_j for bound in found.energy_interval_j)
        assert least <= min(low, 1 / (1 + power.uncertainty)) * (1 + 1e-9)
        assert most >= max(high, 1 + power.uncertainty) * (1 - 1e-9)
        assert most <= high * (1 + power.uncertainty) * (1 + 1e-9), "errors that are independent do not add up"
    assert found.energy_interval_j[0] <= found.energy_j <= found.energy_interval_j[1]


@given(workloads(), any_stack)
def test_every_interval_holds_its_estimate(work: Workload, stack: Stack) -> None:
    found = estimate(work, stack)
    assert 0 < found.latency_interval_s[0] <= found.latency_s <= found.latency_interval_s[1]
    assert found.memory_interval_bytes[0] <= found.peak_memory_bytes <= found.memory_interval_bytes[1]
    assert found.peak_memory_bytes == sum(found.memory_parts_bytes.values())
    json.dumps(found.to_json(), allow_nan=False)


@given(workloads(), any_stack, st.data())
def test_more_work_never_costs_less(work: Workload, stack: Stack, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(work.operators) - 1))
    op = work.operators[at]
    more = data.draw(st.integers(1, 10**9))
    grown = [replace(op, input_bytes=op.input_bytes + more), replace(op, output_bytes=op.output_bytes + more)]
    if op.op_class in MAC_CLASSES:
        grown += [
            replace(op, product=Product(op.product.rows + more, 1, 1)),
            replace(op, weight_bytes=op.weight_bytes + more),
        ]
    before = estimate(work, stack).latency_s
    for larger in grown:
        heavier = replace(work, operators=(*work.operators[:at], larger, *work.operators[at + 1 :]))
        assert estimate(heavier, stack).latency_s >= before


@given(workloads(), any_stack, st.sampled_from(sorted(TYPE_OF_CLASS)))
def test_another_operator_never_costs_less(work: Workload, stack: Stack, op_class: str) -> None:
    larger = extended(work, operator(0, op_class, 10**6, 1, 1000, "", 1))
    before, after = estimate(work, stack), estimate(larger, stack)
    assert after.latency_s > before.latency_s
    assert after.energy_j > before.energy_j


@given(workloads(), any_stack, st.sampled_from(sorted(TYPE_OF_CLASS)))
def test_another_operator_never_holds_less_at_once(work: Workload, stack: Stack, op_class: str) -> None:
    """A plan may: it overwrites what was the result before."""
    larger = extended(work, operator(0, op_class, 10**6, 1, 1000, "", 1))
    before, after = estimate(work, stack, quick=True), estimate(larger, stack, quick=True)
    assert after.peak_memory_bytes >= before.peak_memory_bytes


@given(workloads(("conv3x3", "pointwise", "elementwise", "pool")), any_stack)
def test_an_unknown_operator_never_narrows_the_interval(work: Workload, stack: Stack) -> None:
    larger = extended(work, operator(0, "unknown", 0, 1, 0, "", 1))
    before, after = estimate(work, stack), estimate(larger, stack)
    assert after.extrapolated
    width = [e.latency_interval_s[1] - e.latency_interval_s[0] for e in (before, after)]
    assert width[1] > width[0]


def calibrated(stack: Stack, **changes: object) -> Stack:
    fit = replace(
        stack.latency, rows=20, networks=20, covariance=[[0.0] * len(CAUSES)] * len(CAUSES),
        scatter=log(1.2), quantile=1.0, seen_causes=frozenset({"convolution"}),
        seen_macs=(10**8, 10**9), **changes,
    )  # fmt: skip
    return replace(stack, latency=fit)


PLAIN = load_stack("desktop_cpu/onnxruntime-fp32")


def chain(*rows: tuple[str, int], dtype: str = "float32") -> Workload:
    operators = tuple(operator(i, op_class, macs, 100, 100, dtype, 100) for i, (op_class, macs) in enumerate(rows))
    sizes = {f"t{i}": 100 for i in range(len(rows) + 1)}
    return Workload(name="n", operators=operators, tensor_bytes=sizes, inputs=("t0",), outputs=(f"t{len(rows)}",))


def test_inside_calibration_the_interval_is_that_of_the_fit() -> None:
    found = estimate(chain(("conv3x3", 10**8), ("elementwise", 0)), calibrated(PLAIN))
    assert not found.extrapolated
    assert found.calibrated
    assert found.latency_interval_s == pytest.approx((found.latency_s / 1.2, found.latency_s * 1.2))


@pytest.mark.parametrize("op_class", ["depthwise", "matmul", "unknown"])
def test_a_class_outside_calibration_widens_by_its_share(op_class: str) -> None:
    found = estimate(chain(("conv3x3", 10**8), (op_class, 10**8)), calibrated(PLAIN))
    known, foreign = found.operators
    assert (known.extrapolated, foreign.extrapolated, found.extrapolated) == (False, True, True)
    own = found.latency_s - foreign.latency_s
    assert found.latency_interval_s == pytest.approx(
        (own / 1.2 + foreign.latency_s / 3, 1.2 * own + 3 * foreign.latency_s)
    )


@pytest.mark.parametrize(
    ("macs", "widens"),
    [(10**8, 1.0), (5 * 10**7, 1.0), (2 * 10**9, 1.0), (5 * 10**6, 1.5), (2 * 10**10, 1.5), (2 * 10**11, 2.0)],
)
def test_a_size_outside_calibration_widens_by_its_distance(macs: int, widens: float) -> None:
    found = estimate(chain(("conv3x3", macs)), calibrated(PLAIN))
    assert found.extrapolated is (widens > 1)
    assert found.latency_interval_s == pytest.approx((found.latency_s / 1.2 / widens, 1.2 * found.latency_s * widens))


def test_a_stack_may_be_named() -> None:
    work = chain(("conv3x3", 10**9))
    assert estimate(work, "desktop_cpu/onnxruntime-fp32") == estimate(work, PLAIN)
    with pytest.raises(UnknownName, match="no-such-stack"):
        estimate(work, "desktop_cpu/no-such-stack")


def test_a_float_graph_is_priced_as_the_stack_would_run_it_unless_told() -> None:
    stack, work = load_stack("raspberry_pi_4/tflite-int8"), chain(("conv3x3", 10**9))
    narrow, whole = estimate(work, stack), estimate(work, stack, as_is=True)
    assert (narrow.assumed_dtype, whole.assumed_dtype) == ("int8", "")
    assert {row.dtype for row in narrow.operators} == {"int8"}
    assert {row.dtype for row in whole.operators} == {"float32"}
    assert narrow.weight_bytes * 4 == whole.weight_bytes
    floats = load_stack("raspberry_pi_4/tflite-fp32")
    assert whole.operators[0].terms["convolution"] == 10**9 * floats.latency.costs["convolution"]


def test_float_work_without_a_float_stack_is_extrapolated() -> None:
    stack = load_stack("jetson_nano/tensorrt-fp16")
    assert not stack.float_stack
    (row,) = estimate(chain(("conv3x3", 10**9)), calibrated(stack), as_is=True).operators
    assert row.extrapolated


@given(workloads(), any_stack)
def test_activations_are_those_of_the_memory_plan(work: Workload, stack: Stack) -> None:
    assert (
        estimate(work, stack, as_is=True).activation_bytes
        == peak_memory(work, _priced_on(stack, work)).activation_bytes
    )


def _priced_on(stack: Stack, work: Workload) -> Stack:
    """A float graph as it is runs on the float stack, where there is one."""
    as_float = work.is_float32 and stack.dtype != "float32" and stack.float_stack
    return load_stack(stack.float_stack) if as_float else stack


# ---- accelerators


@each_accelerator
@pytest.mark.parametrize(("excess", "streams"), [(-1, False), (0, False), (1, True), (10**6, True)])
def test_weights_stream_only_above_the_parameter_cache(stack: Stack, excess: int, streams: bool) -> None:
    op = replace(
        chain(("conv3x3", 10**9), dtype="int8").operators[0], weight_bytes=stack.parameter_cache_bytes + excess
    )
    found = estimate(replace(chain(("conv3x3", 10**9), dtype="int8"), operators=(op,)), stack)
    rows = [row for row in found.operators if row.op_type == "Stream"]
    assert bool(rows) is streams
    if streams:
        assert rows[0].latency_s == pytest.approx(excess / stack.link_bytes_s)
        assert rows[0].place == "link"


@each_accelerator
def test_weights_of_the_host_do_not_stream(stack: Stack) -> None:
    """Behind the first refusal nothing is on the accelerator, so nothing crosses the link to it."""
    work = chain(("conv3x3", 10**9), ("recurrent", 10**9), dtype="int8")
    heavy = replace(work.operators[1], weight_bytes=10 * stack.parameter_cache_bytes)
    found = estimate(replace(work, operators=(work.operators[0], heavy)), stack)
    assert found.operators[1].place == "host"
    assert not [row for row in found.operators if row.op_type == "Stream"]


@given(workloads(), st.sampled_from(ACCELERATORS))
def test_one_refusal_sends_the_rest_to_the_host(work: Workload, stack: Stack) -> None:
    placements = place(work, stack)
    known = load_rules(stack.rules).operators
    runs = [op.op_type in known and op.dtype == "int8" for op in work.operators]
    first = runs.index(False) if False in runs else len(runs)
    assert [p.place for p in placements] == [stack.rules] * first + ["host"] * (len(runs) - first)
    assert not any(p.reason for p in placements[:first])
    if first < len(runs):
        op = work.operators[first]
        assert (op.op_type if op.op_type not in known else op.dtype) in placements[first].reason
        assert placements[first].crosses == (op.input_bytes if first else 0)
        assert all(op.name in p.reason and p.crosses == 0 for p in placements[first + 1 :])
    found = estimate(work, stack, as_is=True)
    assert [row.name for row in found.fallbacks] == [op.name for op in work.operators[first:]]
    assert all(row.latency_s > 0 for row in found.fallbacks), "fallback is priced in seconds"


Spoil = Callable[[Operator], Operator]


@each_accelerator
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda op: replace(op, op_type="LSTM"), "LSTM is not in the operator list"),
        (lambda op: replace(op, dtype="float32"), "computes in float32"),
        (lambda op: replace(op, fused=("HardSwish",)), "HardSwish is not in the operator list"),
        (lambda op: replace(op, static=False), "not static"),
        (lambda op: replace(op, rank=5), "5 dimensions"),
        (lambda op: replace(op, weight_bytes=0), "not constant"),
    ],
)
def test_a_refusal_says_why(stack: Stack, spoil: Spoil, reason: str) -> None:
    work = chain(("conv3x3", 10**6), ("conv3x3", 10**6), ("conv3x3", 10**6), dtype="int8")
    first, second, third = work.operators
    placed = place(replace(work, operators=(first, spoil(second), third)), stack)
    assert [p.place for p in placed] == [stack.rules, "host", "host"]
    assert reason in placed[1].reason
    assert "op1" in placed[2].reason


@each_accelerator
def test_conversions_at_the_edge_are_the_hosts_and_end_nothing(stack: Stack) -> None:
    work = chain(("elementwise", 0), ("conv3x3", 10**6), ("elementwise", 0), dtype="int8")
    q, conv, dq = work.operators
    ops = (replace(q, op_type="QuantizeLinear"), conv, replace(dq, op_type="DequantizeLinear"))
    assert [(p.place, p.reason) for p in place(replace(work, operators=ops), stack)] == [
        ("host", ""), (stack.rules, ""), ("host", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("stack", [s for s in STACKS if not s.rules], ids=lambda s: s.id)
def test_a_device_without_rules_runs_everything(stack: Stack) -> None:
    assert {p.place for p in place(chain(("unknown", 0), ("recurrent", 5)), stack)} == {"device"}
