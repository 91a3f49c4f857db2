"""Peaks and plans against a simulation that allocates, runs and frees; storages; the memory of a process."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.arena import Buffer
from targets.memory import live_bytes, peak_activation_bytes, peak_memory
from targets.memory_plan import plan_memory
from targets.onnxruntime_memory import arena_use
from targets.operators import NOTHING
from targets.stack import Stack
from targets.storages import storages
from targets.target import load_target
from targets.workload import Operator, Workload


def operator(name: str, reads: tuple[str, ...], writes: tuple[str, ...], op_type: str = "Relu") -> Operator:
    return Operator(
        name=name, op_type=op_type, op_class="elementwise", dtype="float32", product=NOTHING, input_bytes=0,
        output_bytes=0, weight_bytes=0, reads=reads, writes=writes,
    )  # fmt: skip


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    inputs = [f"x{i}" for i in range(draw(st.integers(1, 3)))]
    known, operators = list(inputs), []
    for step in range(draw(st.integers(1, 12))):
        reads = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
        writes = [f"t{step}_{i}" for i in range(draw(st.integers(1, 2)))]
        op_type = draw(st.sampled_from(["Relu", "Add", "Concat", "Conv", "Softmax"]))
        operators.append(operator(f"op{step}", tuple(reads), tuple(writes), op_type))
        known += writes
    written = [name for op in operators for name in op.writes]
    outputs = {operators[-1].writes[0], *draw(st.lists(st.sampled_from(written + inputs), max_size=3))}
    sizes = {name: draw(st.sampled_from([0, 1, 64, 100, 1000])) for name in known}
    return Workload(
        name="random",
        operators=tuple(operators),
        tensor_bytes=sizes,
        inputs=tuple(inputs),
        outputs=tuple(sorted(outputs)),
    )


def simulated(work: Workload) -> list[int]:
    """Run the plan: allocate what an operator writes, and free a tensor once no one will ask for it again."""
    held, log = {*work.inputs}, []
    for step, op in enumerate(work.operators):
        held.update(op.writes)
        assert held.issuperset(op.reads)
        log.append(sum(work.tensor_bytes[name] for name in held))
        asked = {name for later in work.operators[step + 1 :] for name in later.reads}
        held = {name for name in held if name in asked or name in work.outputs}
    return log


@given(workloads())
def test_live_bytes_are_those_of_a_simulation(work: Workload) -> None:
    assert live_bytes(work) == simulated(work)
    assert peak_activation_bytes(work) == max(simulated(work))


@given(workloads())
def test_the_peak_holds_what_any_operator_needs_at_once(work: Workload) -> None:
    needs = [sum(work.tensor_bytes[name] for name in {*op.reads, *op.writes}) for op in work.operators]
    assert max(needs) <= peak_activation_bytes(work) <= sum(work.tensor_bytes.values())


def test_a_skip_connection_is_held_across_what_it_skips() -> None:
    chain = [("x", "a"), ("a", "b"), ("b", "c")]
    ops = [operator(w, (r,), (w,)) for r, w in chain]
    sizes = {"x": 1, "a": 10, "b": 100, "c": 1000, "y": 10_000}
    plain = Workload(
        name="n", operators=(*ops, operator("y", ("c",), ("y",))), tensor_bytes=sizes, inputs=("x",), outputs=("y",)
    )
    skip = Workload(
        name="n", operators=(*ops, operator("y", ("c", "a"), ("y",))), tensor_bytes=sizes, inputs=("x",), outputs=("y",)
    )
    assert live_bytes(plain) == [11, 110, 1100, 11_000]
    assert live_bytes(skip) == [11, 110, 1110, 11_010]


def test_a_network_without_operators_holds_nothing() -> None:
    work = Workload(name="n", operators=(), tensor_bytes={"x": 5}, inputs=("x",), outputs=("x",))
    assert live_bytes(work) == []
    assert peak_activation_bytes(work) == 0


def test_a_network_whose_output_is_a_constant_holds_nothing() -> None:
    work = Workload(name="n", operators=(), tensor_bytes={"x": 5, "y": 1}, inputs=("x",), outputs=("y",))
    assert live_bytes(work) == []
    assert peak_activation_bytes(work) == 0


# ---- the plan


@given(workloads())
def test_no_two_tensors_alive_together_overlap(work: Workload) -> None:
    plan = plan_memory(work, in_place=())
    for step in range(len(work.operators)):
        spans = sorted(
            (plan.offsets[name], plan.offsets[name] + size)
            for name, size in work.tensor_bytes.items()
            if size and name in plan.offsets and is_alive(work, name, step)
        )
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all(end <= plan.arena_bytes for _, end in spans)
    assert plan.lower_bound_bytes == peak_activation_bytes(work) <= plan.arena_bytes


def is_alive(work: Workload, name: str, step: int) -> bool:
    writes = [at for at, op in enumerate(work.operators) if name in op.writes]
    reads = [at for at, op in enumerate(work.operators) if name in op.reads]
    first = min(writes, default=0)
    last = len(work.operators) if name in work.outputs else max([*writes, *reads], default=0)
    return first <= step <= last


@given(workloads())
def test_overwriting_loses_no_value_that_is_still_read(work: Workload) -> None:
    """Run the plan on an arena of names: every operator finds each operand where it was written."""
    plan = plan_memory(work)
    inside = {name: plan.offsets[name] for name in work.inputs if work.tensor_bytes[name]}
    for op in work.operators:
        for name in op.reads:
            assert not work.tensor_bytes[name] or name in inside
        for name in op.writes:
            start, end = plan.offsets[name], plan.offsets[name] + work.tensor_bytes[name]
            inside = {
                other: at
                for other, at in inside.items()
                if not work.tensor_bytes[name] or at >= end or at + work.tensor_bytes[other] <= start
            }
            inside[name] = start
    assert all(name in inside or not work.tensor_bytes[name] for name in work.outputs)


@given(workloads())
def test_overwriting_never_needs_more(work: Workload) -> None:
    assert plan_memory(work).lower_bound_bytes <= plan_memory(work, in_place=()).lower_bound_bytes


@given(workloads())
def test_the_peak_is_what_is_held_at_its_step(work: Workload) -> None:
    plan = plan_memory(work)
    assert sum(size for _, size in plan.peak_tensors) == plan.lower_bound_bytes
    if plan.peak_step >= 0:
        assert plan.peak_operator == work.operators[plan.peak_step].name
    else:
        assert plan.lower_bound_bytes == 0


def chain(*op_types: str, size: int = 64) -> Workload:
    names = ["x", *(f"t{i}" for i in range(len(op_types)))]
    return Workload(
        name="chain",
        operators=tuple(operator(f"op{i}", (names[i],), (names[i + 1],), t) for i, t in enumerate(op_types)),
        tensor_bytes=dict.fromkeys(names, size),
        inputs=("x",),
        outputs=(names[-1],),
    )


def test_activations_overwrite_their_operand_but_never_the_caller_s() -> None:
    assert plan_memory(chain("Relu", "Sigmoid", "Relu", "Relu")).arena_bytes == 2 * 64
    assert plan_memory(chain("Relu", "Sigmoid", "Relu", "Relu"), outside="x").arena_bytes == 64
    assert plan_memory(chain("Conv", "Conv", "Conv", "Conv"), outside="x").arena_bytes == 2 * 64


def test_a_plan_without_operators_or_sizes_is_empty() -> None:
    for work in (chain(), chain("Relu", "Relu", size=0)):
        plan = plan_memory(work)
        assert (plan.arena_bytes, plan.lower_bound_bytes, plan.gap) == (0, 0, 0.0)
        assert (plan.peak_step, plan.peak_operator, plan.peak_tensors) == (-1, "", ())


@pytest.mark.slow
def test_a_hundred_thousand_operators_are_planned_in_seconds() -> None:
    work = chain(*(["Conv", "Relu", "Add", "Concat"] * 25_000))
    started = time.process_time()
    assert plan_memory(work).arena_bytes == 2 * 64
    assert arena_use(work).first_run_bytes >= 2 * 64
    assert time.process_time() - started < 20  # three seconds on an idle machine


# ---- TVM's storages


def test_a_storage_passes_to_the_next_buffer_and_grows_for_it() -> None:
    first, second, third = Buffer("a", 100, 0, 1), Buffer("b", 100, 1, 2), Buffer("c", 300, 2, 3)
    assert storages([first, second, third]) == [300, 100]


def test_a_storage_is_not_taken_for_a_far_smaller_buffer() -> None:
    assert storages([Buffer("a", 1700, 0, 0), Buffer("b", 100, 1, 1)]) == [1700, 100]
    assert storages([Buffer("a", 1600, 0, 0), Buffer("b", 100, 1, 1)]) == [1600]


@given(workloads())
def test_storages_hold_what_is_alive(work: Workload) -> None:
    found = [Buffer("", size, i % 5, i % 5 + i % 3) for i, size in enumerate(work.tensor_bytes.values())]
    alive = [sum(b.size for b in found if b.first <= step <= b.last) for step in range(8)]
    assert max(alive) <= sum(storages(found)) <= sum(b.size for b in found)


# ---- the process

STACKS = [s for name in ("desktop_cpu", "jetson_nano", "raspberry_pi_4") for s in load_target(name).stacks.values()]


@given(workloads(), st.sampled_from(STACKS), st.booleans())
def test_the_parts_add_up_and_lie_in_the_interval(work: Workload, stack: Stack, quick: bool) -> None:
    peak = peak_memory(work, stack, quick=quick)
    assert sum(peak.parts.values()) == peak.peak_bytes
    assert min(peak.parts.values()) >= 0
    assert peak.interval_bytes[0] <= peak.peak_bytes <= peak.interval_bytes[1]
    assert peak.peak_bytes >= stack.runtime_bytes + work.weight_bytes + peak.activation_bytes


def heavy(weight_bytes: int, activation_bytes: int) -> Workload:
    product = replace(operator("op", ("x",), ("y",), "MatMul"), op_class="matmul", weight_bytes=weight_bytes)
    return Workload(
        name="n",
        operators=(product,),
        tensor_bytes={"x": activation_bytes, "y": 0},
        inputs=("x",),
        outputs=("y",),
    )


def test_where_memory_is_shared_the_engine_s_file_lies_beside_the_weights_while_loading() -> None:
    stack = load_target("jetson_nano").stack("tensorrt-fp16")
    assert peak_memory(heavy(1000, 10), stack).peak_bytes == stack.runtime_bytes + 2000
    assert peak_memory(heavy(1000, 5000), stack).peak_bytes == stack.runtime_bytes + 6000


def test_the_interval_is_measured_only_where_the_runtime_is_the_one_that_was() -> None:
    desktop, board = load_target("desktop_cpu").stack("onnxruntime-fp32"), load_target("raspberry_pi_4")
    here = peak_memory(heavy(1000, 10), desktop)
    there = [peak_memory(heavy(1000, 10), stack) for stack in board.stacks.values()]
    assert here.measured
    assert not any(peak.measured for peak in there)
    assert all("assumed" in peak.provenance for peak in there)
    assert "assumed" not in here.provenance


def test_the_bound_is_cheap_enough_to_ask_a_hundred_thousand_times() -> None:
    work = chain(*(["Conv", "Relu", "Add"] * 22))
    started = time.process_time()
    for _ in range(100):
        peak_activation_bytes(work)
    assert time.process_time() - started < 0.1  # 5 ms on an idle machine
