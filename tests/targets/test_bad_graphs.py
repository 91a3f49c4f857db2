"""Graphs that are odd, empty, huge or not finished: a clear refusal, or a row that is priced and marked."""

from __future__ import annotations

import cProfile
import json
from collections.abc import Callable, Iterator
from math import isfinite

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from passes.structure import infer_shapes
from targets.cost import estimate
from targets.errors import InvalidInput, ToolkitError
from targets.estimate import Estimate
from targets.graph import read_workload
from targets.stack import Stack
from targets.target import load_stack, load_target, target_names
from targets.workload import Workload

Read = Callable[..., Workload]
STACKS = [stack for name in target_names() for stack in load_target(name).stacks.values()]
PI = load_stack("raspberry_pi_4/tflite-fp32")
ACME = ', "acme" : 1'


def on_every_stack(work: Workload) -> Iterator[tuple[Stack, Estimate]]:
    """Estimates that are finite, add up, hold their intervals and can be written."""
    for stack in STACKS:
        found = estimate(work, stack)
        low, high = found.latency_interval_s
        assert 0 < low <= found.latency_s <= high, stack.id
        assert isfinite(high), stack.id
        assert found.latency_s == pytest.approx(found.fixed_s + sum(row.latency_s for row in found.operators))
        assert found.memory_interval_bytes[0] <= found.peak_memory_bytes <= found.memory_interval_bytes[1], stack.id
        json.dumps(found.to_json(), allow_nan=False)
        yield stack, found


# ---- sizes


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        pytest.param("g (float[0,64] x) => (float[0,8] y) { y = MatMul(x, w) }", {"w": (64, 8)}, id="no rows"),
        pytest.param("g (float[4,0] x) => (float[4,8] y) { y = MatMul(x, w) }", {"w": (0, 8)}, id="no depth"),
        pytest.param("g (float[4,8] x) => (float[4,0] y) { y = Gemm(x, w) }", {"w": (8, 0)}, id="no columns"),
        pytest.param("g (float[0,4,8] a, float[0,8,2] b) => (float[0,4,2] y) { y = MatMul(a, b) }", {}, id="no batch"),
        pytest.param("g (float[1,0,8,8] x) => (float[1,4,6,6] y) { y = Conv(x, w) }", {"w": (4, 0, 3, 3)},
                     id="no channels"),
        pytest.param("g (float[1,3,8,8] x) => (float[1,0,6,6] y) { y = Conv(x, w) }", {"w": (0, 3, 3, 3)},
                     id="no filters"),
        pytest.param("g (float[0,3,8,8] x) => (float[0,4,6,6] y) { c = Conv(x, w) y = Relu(c) }", {"w": (4, 3, 3, 3)},
                     id="no images"),
        pytest.param("g (float[1,0,8,8] x) => (float[1,0,4,4] y) { y = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) }",
                     {}, id="pool of no channels"),
        pytest.param("g (float[0,1,3] x) => (float[0,1,1,7] y) { y = LSTM<hidden_size=7>(x, w, r) }",
                     {"w": (1, 28, 3), "r": (1, 28, 7)}, id="no steps"),
        pytest.param("g (float[1,4] x, float[0,4] z) => (float[1,4] y) { y = Concat<axis=0>(x, z) }", {},
                     id="joined with nothing"),
        pytest.param("g (float x) => (float y) { y = Relu(x) }", {}, id="scalar"),
        pytest.param("g (float[4] x) => (float y) { y = MatMul(x, w) }", {"w": (4,)}, id="inner product"),
        pytest.param('g (float[4] x, float[4] w) => (float y) { y = Einsum<equation="i,i->">(x, w) }', {},
                     id="sum to a scalar"),
    ],
)  # fmt: skip
def test_empty_tensors_and_scalars_have_a_price_on_every_stack(
    read: Read, text: str, weights: dict[str, tuple[int, ...]]
) -> None:
    for stack, found in on_every_stack(read(text, **weights)):
        rows = [row for row in found.operators if row.op_type != "Stream"]
        assert rows, stack.id
        assert all(row.latency_s > 0 for row in rows), stack.id


def test_tensors_of_more_than_two_to_the_31_elements_are_counted_whole(read: Read) -> None:
    work = read("g (float[65536,65536] x) => (float[65536,65536] y) { y = Relu(x) }")
    assert work.operators[0].input_bytes == 4 * 2**32
    product = read("g (float[262144,65536] a, float[65536,4] b) => (float[262144,4] y) { y = MatMul(a, b) }")
    assert (product.macs, product.operators[0].input_bytes) == (2**36, 4 * (2**34 + 2**18))
    for stack, found in on_every_stack(work):
        width = 1 if found.assumed_dtype == "int8" else 2 if found.assumed_dtype == "float16" else 4
        assert found.peak_memory_bytes > width * 2**32, stack.id


# ---- what is not known


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", "x"),
        ("g (float[1,4] a, float[1,M] b) => (float[1,P] y) { y = Concat<axis=1>(a, b) }", "b"),
        ("g (float[] x) => (float[] y) { y = Relu(x) }", "x"),
    ],
)
def test_an_input_without_a_size_is_refused_by_its_name(text: str, name: str) -> None:
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'))
    if "[]" in text:
        model.graph.inputs[0].shape = None
    with pytest.raises(InvalidInput, match=f"'{name}'") as refusal:
        estimate(model, PI)
    assert f"--input {name}=" in refusal.value.hint


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("g (float[8,512] x) => (y) { r = acme.Swirl(x) y = MatMul(r, w) }", {"w": (512, 512)}),
        ("g (float[8,8] x) => (y) { n = NonZero(x) f = Cast<to=1>(n) y = Exp(f) }", {}),
        ("g (float[1,8,16,16] x) => (y) { s = acme.Size(x) r = Resize(x, , , s) y = Conv(r, w) }", {"w": (4, 8, 3, 3)}),
    ],
)
def test_what_lies_behind_an_unknown_shape_is_priced_and_marked(
    read: Read, text: str, weights: dict[str, tuple[int, ...]]
) -> None:
    work = read(text, domains=ACME, **weights)
    first = next(i for i, op in enumerate(work.operators) if not op.static or op.op_class == "unknown")
    for stack, found in on_every_stack(work):
        assert found.extrapolated, stack.id
        assert all(row.extrapolated for row in found.operators[first : len(work.operators)]), stack.id


def test_an_operator_that_no_standard_has_is_unknown_and_priced_by_its_bytes(read: Read) -> None:
    texts = [f"g (float[1,{n}] x) => (float[1,{n}] y) {{ y = Swirl(x) }}" for n in (10, 10**6)]
    small, large = (read(text, domains=ACME) for text in texts)
    assert small.operators[0].op_class == "unknown"
    for stack in STACKS:
        a, b = (estimate(work, stack) for work in (small, large))
        assert a.extrapolated, stack.id
        assert b.operators[0].latency_s > a.operators[0].latency_s > 0, stack.id
        low, high = b.latency_interval_s
        assert high - b.fixed_s > 2 * (b.latency_s - b.fixed_s), "an unknown operator may take three times as long"
        assert low < b.latency_s


def test_missing_value_information_is_marked_rather_than_free() -> None:
    """A graph whose shapes nobody inferred."""
    text = "g (float[1,3,8,8] x) => (y) { c = Conv(x, w) y = Relu(c) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w"))
    found = estimate(ir.from_proto(proto), load_stack("desktop_cpu/onnxruntime-fp32"))
    assert found.operators[0].extrapolated
    assert found.extrapolated


# ---- control flow


LOOP = """g (float[1,8,16,16] x, bool go{inputs}) => (float[1,8,16,16] y) {{
    y = Loop ({trips}, go, x) < body = b (int64 i, bool c, float[1,8,16,16] s) => (bool d, float[1,8,16,16] t) {{
        d = Identity(c)  t = Conv<pads=[1,1,1,1]>(s, w)
    }} > }}"""


def test_a_loop_costs_its_trips(read: Read) -> None:
    def loop(trips: int) -> Workload:
        return read(LOOP.format(inputs="", trips="n"), w=(8, 8, 3, 3), n=np.array(trips))

    assert loop(6).macs == 6 * loop(1).macs
    for stack in STACKS:
        one, six = (estimate(loop(trips), stack) for trips in (1, 6))
        assert six.operators[0].latency_s == pytest.approx(6 * one.operators[0].latency_s), stack.id


def test_a_loop_of_which_only_the_data_say_how_long_counts_once_and_is_marked(read: Read) -> None:
    work = read(LOOP.format(inputs=", int64 n", trips="n"), w=(8, 8, 3, 3))
    assert [(op.op_type, op.repeats, op.static) for op in work.operators] == [("Conv", 1, False), ("Loop", 1, True)]
    for stack, found in on_every_stack(work):
        assert all(row.extrapolated for row in found.operators if row.op_type in ("Conv", "Loop")), stack.id


def test_a_scan_runs_once_for_each_slice(read: Read) -> None:
    text = """g (float[7,64] x, float[64] h) => (float[64] y, float[7,64] z) {
        y, z = Scan<num_scan_inputs=1, body = b (float[64] s, float[64] e) => (float[64] t, float[64] o) {
            m = MatMul(e, w)  t = Add(m, s)  o = Identity(t) }>(h, x) }"""
    work = read(text, w=(64, 64))
    assert [(op.op_type, op.repeats) for op in work.operators] == [("MatMul", 7), ("Add", 7), ("Scan", 1)]
    assert work.macs == 7 * 64 * 64
    assert all(found.extrapolated for _, found in on_every_stack(work))


def test_a_choice_costs_its_dearer_branch(read: Read) -> None:
    text = """g (float[8,64] x, bool go) => (float[8,64] y) { y = If (go) <
        then_branch = t () => (float[8,64] p) { p = MatMul(x, w) },
        else_branch = e () => (float[8,64] q) { q = Relu(x) }> }"""
    work = read(text, w=(64, 64))
    assert work.macs == 8 * 64 * 64
    assert [op.op_type for op in work.operators] == ["MatMul", "If"]
    assert all(found.extrapolated for _, found in on_every_stack(work))


# ---- names and numbers of operators


def test_operators_of_one_name_are_all_counted() -> None:
    nodes = [helper.make_node("Tanh", [f"t{i}"], [f"t{i + 1}"], name="same") for i in range(5)]
    work = read_workload(infer_shapes(ir.from_proto(model_of(nodes, 5))))
    assert [op.name for op in work.operators] == ["same"] * 5
    for _, found in on_every_stack(work):
        assert len([row for row in found.operators if row.name == "same"]) in (1, 5), "one kernel, or five"


def test_operators_without_names_are_told_apart_by_their_results() -> None:
    nodes = [helper.make_node("Tanh", [f"t{i}"], [f"t{i + 1}"]) for i in range(3)]
    work = read_workload(infer_shapes(ir.from_proto(model_of(nodes, 3))))
    assert len({op.name for op in work.operators}) == 3


@pytest.mark.parametrize("text", ["g (float[1,4] x) => (float[1,4] x) { }",
                                  "g (float[1,4] x) => (float[4] y) { y = Flatten(x) }"])  # fmt: skip
def test_a_graph_without_work_takes_what_every_inference_takes(text: str) -> None:
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'))
    for stack, found in on_every_stack(read_workload(model)):
        assert found.operators == ()
        assert found.latency_s == found.fixed_s == stack.latency.fixed_s


def model_of(nodes: list[onnx.NodeProto], last: int) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("t0", f"t{last}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


KINDS = {
    "elementwise": ("Relu", "Tanh", "Exp"),
    "quantized and back": ("QuantizeLinear", "DequantizeLinear"),
    "views": ("Identity", "Flatten"),
}


def chain(length: int, kinds: tuple[str, ...] = KINDS["elementwise"]) -> ir.Model:
    """Operators one behind the other, their shapes known."""
    scale = ir.Value(name="scale", const_value=ir.tensor(np.float32(0.1), name="scale"))
    zero = ir.Value(name="zero", const_value=ir.tensor(np.uint8(0), name="zero"))
    types = {"QuantizeLinear": ir.DataType.UINT8}
    ends, nodes = [ir.Value(name="t0", shape=ir.Shape((1, 4)), type=ir.TensorType(ir.DataType.FLOAT))], []
    for i in range(length):
        kind = kinds[i % len(kinds)]
        dtype = types.get(kind, ir.DataType.FLOAT)
        ends.append(ir.Value(name=f"t{i + 1}", shape=ir.Shape((1, 4)), type=ir.TensorType(dtype)))
        inputs = [ends[i], scale, zero] if "Linear" in kind else ends[i : i + 1]
        nodes.append(ir.node(kind, inputs, outputs=ends[-1:]))
    held = [scale, zero] if "QuantizeLinear" in kinds else []
    graph = ir.Graph(ends[:1], ends[-1:], nodes=nodes, initializers=held, opset_imports={"": 18}, name="chain")
    return ir.Model(graph, ir_version=9)


def branches(length: int) -> ir.Model:
    """As many conditions one behind the other, each with two bodies of its own."""
    bodies = [helper.make_graph([helper.make_node(kind, ["t0"], [f"{kind}_out"])], kind, [],
                                [helper.make_tensor_value_info(f"{kind}_out", TensorProto.FLOAT, [1, 4])])
              for kind in ("Relu", "Tanh")]  # fmt: skip
    nodes = []
    for i in range(length):
        nodes.append(helper.make_node("If", ["c"], [f"b{i}"], then_branch=bodies[0], else_branch=bodies[1]))
        nodes.append(helper.make_node("Add", [f"t{i}", f"b{i}"], [f"t{i + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("t0", f"t{length}")]
    asks = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "branches", [ends[0], asks], ends[1:])
    return infer_shapes(
        ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    )


def calls_for(model: ir.Model, stack: Stack) -> int:
    """How many functions are called to estimate `model`: what it takes, whatever else the machine does."""
    profile = cProfile.Profile()
    profile.runcall(estimate, model, stack)
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize(
    "name", ["desktop_cpu/onnxruntime-fp32", pytest.param("coral_tpu/usb3-desktop", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "kind",
    ["elementwise", "views", *(pytest.param(k, marks=pytest.mark.slow) for k in ("quantized and back", "branches"))],
)
def test_work_for_a_long_chain_grows_with_its_length(name: str, kind: str) -> None:
    """Eight times the operators in at most ten times the calls: no step of the estimate is quadratic."""
    stack = load_stack(name)
    short, long = (branches(n) if kind == "branches" else chain(n, KINDS[kind]) for n in (200, 1600))
    calls_for(short, stack)  # what is done once
    assert calls_for(long, stack) < 10 * calls_for(short, stack)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "operators"), [("elementwise", 100_000), ("quantized and back", 2), ("views", 0)])
def test_a_graph_of_a_hundred_thousand_operators_is_estimated(kind: str, operators: int) -> None:
    found = estimate(chain(100_000, KINDS[kind]), load_stack("raspberry_pi_4/tflite-int8"))
    assert len(found.operators) == operators


# ---- refusals carry a next step


@pytest.mark.parametrize("name", ["raspberry_pi_4/tflite-fp23", "tflite-fp32x", "onnxruntime-fp32", "nowhere/at-all"])
def test_a_stack_that_is_not_there_is_answered_with_those_that_are(name: str) -> None:
    with pytest.raises(ToolkitError) as refusal:
        load_stack(name)
    assert refusal.value.hint.startswith(("did you mean", "known: "))
    assert refusal.value.exit_code == 2
