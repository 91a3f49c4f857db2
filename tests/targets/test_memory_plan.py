"""The liveness peak against a simulation that allocates, runs and frees."""

from hypothesis import given
from hypothesis import strategies as st

from targets.memory import live_bytes, peak_activation_bytes
from targets.workload import Operator, Workload


def operator(name: str, reads: tuple[str, ...], writes: tuple[str, ...]) -> Operator:
    return Operator(
        name=name, op_type="Relu", op_class="elementwise", dtype="float32", macs=0, input_bytes=0, output_bytes=0,
        weight_bytes=0, reads=reads, writes=writes,
    )  # fmt: skip


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    inputs = [f"x{i}" for i in range(draw(st.integers(1, 3)))]
    known, operators = list(inputs), []
    for step in range(draw(st.integers(1, 12))):
        reads = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
        writes = [f"t{step}_{i}" for i in range(draw(st.integers(1, 2)))]
        operators.append(operator(f"op{step}", tuple(reads), tuple(writes)))
        known += writes
    written = [name for op in operators for name in op.writes]
    outputs = {operators[-1].writes[0], *draw(st.lists(st.sampled_from(written + inputs), max_size=3))}
    sizes = {name: draw(st.integers(0, 1000)) for name in known}
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
