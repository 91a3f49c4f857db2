"""Reading a graph: grouping, views, dead and constant parts, subgraphs, what is refused."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx.parser
import onnx_ir
import pytest

from targets.cost import estimate
from targets.errors import InvalidInput
from targets.graph import MODULE_KEY, SOURCE_KEY, read_workload
from targets.memory import live_bytes
from targets.target import load_stack
from targets.workload import Workload

Read = Callable[..., Workload]
NORM = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": np.ones(4, np.float32)}
TENSORRT = "batch_norm activation residual_add"


def shape_of(work: Workload) -> list[tuple[str, tuple[str, ...]]]:
    return [(op.op_type, op.fused) for op in work.operators]


def assert_every_tensor_is_written_before_it_is_read(work: Workload) -> None:
    written = Counter(name for op in work.operators for name in op.writes)
    assert not [name for name, times in written.items() if times > 1]
    known = set(work.inputs)
    for op in work.operators:
        assert set(op.reads) <= known, f"{op.name} reads {set(op.reads) - known}, which nothing wrote"
        known |= set(op.writes)
    assert set(work.outputs) <= known


CONV_BN_RELU = """g (float[1,3,8,8] x) => (float[1,4,6,6] y) {
    c = Conv(x, w)
    n = BatchNormalization(c, gamma, beta, mean, var)
    y = Relu(n) }"""


@pytest.mark.parametrize(
    ("fuses", "groups"),
    [
        ("batch_norm relu", [("Conv", ("BatchNormalization", "Relu"))]),
        ("batch_norm activation", [("Conv", ("BatchNormalization", "Relu"))]),
        ("batch_norm", [("Conv", ("BatchNormalization",)), ("Relu", ())]),
        ("relu", [("Conv", ()), ("BatchNormalization", ()), ("Relu", ())]),
        ("", [("Conv", ()), ("BatchNormalization", ()), ("Relu", ())]),
    ],
)
def test_a_chain_is_grouped_as_far_as_the_stack_fuses(
    read: Read, fuses: str, groups: list[tuple[str, tuple[str, ...]]]
) -> None:
    work = read(CONV_BN_RELU, fuses=fuses, w=(4, 3, 3, 3), **NORM)
    assert shape_of(work) == groups
    assert_every_tensor_is_written_before_it_is_read(work)
    assert work.weight_bytes == 4 * (4 * 27 + 16), "parameters of what is folded in still weigh"
    if len(groups) == 1:
        (op,) = work.operators
        assert (op.input_bytes, op.output_bytes) == (4 * 192, 4 * 144)


@pytest.mark.parametrize(
    ("op", "row"), [("Relu", "relu"), ("LeakyRelu", "activation"), ("HardSwish", "activation"), ("Tanh", "activation")]
)
def test_an_activation_is_grouped_only_where_the_stack_fuses_it(read: Read, op: str, row: str) -> None:
    text = f"g (float[1,3,8,8] x) => (float[1,4,6,6] y) {{ c = Conv(x, w) y = {op}(c) }}"
    assert shape_of(read(text, fuses=row, w=(4, 3, 3, 3))) == [("Conv", (op,))]
    assert len(read(text, fuses="batch_norm", w=(4, 3, 3, 3)).operators) == 2
    if row == "activation":
        assert len(read(text, fuses="relu", w=(4, 3, 3, 3)).operators) == 2


@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_a_gate_is_one_activation(read: Read, gate: str) -> None:
    text = f"g (float[1,3,8,8] x) => (float[1,4,6,6] y) {{ c = Conv(x, w) s = {gate}(c) y = Mul(c, s) }}"
    work = read(text, fuses="activation", w=(4, 3, 3, 3))
    assert shape_of(work) == [("Conv", (gate, "Mul"))]
    assert_every_tensor_is_written_before_it_is_read(work)
    assert len(read(text, fuses="relu", w=(4, 3, 3, 3)).operators) == 3


def test_a_gate_that_something_else_reads_is_no_activation(read: Read) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,6,6] y, float[1,4,6,6] z) {
        c = Conv(x, w)  s = Sigmoid(c)  y = Mul(c, s)  z = Relu(s) }"""
    work = read(text, fuses="activation", w=(4, 3, 3, 3))
    assert shape_of(work)[0] == ("Conv", ())
    assert_every_tensor_is_written_before_it_is_read(work)


def test_a_gate_that_is_an_output_is_no_activation(read: Read) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,6,6] y, float[1,4,6,6] s) {
        c = Conv(x, w)  s = Sigmoid(c)  y = Mul(c, s) }"""
    work = read(text, fuses="activation", w=(4, 3, 3, 3))
    assert_every_tensor_is_written_before_it_is_read(work)


def test_squeeze_and_excite_is_not_taken_for_a_gate(read: Read) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,6,6] y) {
        c = Conv(x, w)  p = GlobalAveragePool(c)  s = Conv(p, v)  a = HardSigmoid(s)  y = Mul(c, a) }"""
    work = read(text, fuses=TENSORRT, w=(4, 3, 3, 3), v=(4, 4, 1, 1))
    assert shape_of(work) == [("Conv", ()), ("GlobalAveragePool", ()), ("Conv", ("HardSigmoid",)), ("Mul", ())]


def test_a_result_that_is_read_twice_ends_its_group(read: Read) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,6,6] y, float[1,4,6,6] z) {
        c = Conv(x, w)  y = Relu(c)  z = Tanh(c) }"""
    assert shape_of(read(text, fuses=TENSORRT, w=(4, 3, 3, 3))) == [("Conv", ()), ("Relu", ()), ("Tanh", ())]


def test_a_result_that_is_an_output_ends_its_group(read: Read) -> None:
    text = "g (float[1,3,8,8] x) => (float[1,4,6,6] c, float[1,4,6,6] y) { c = Conv(x, w) y = Relu(c) }"
    assert shape_of(read(text, fuses=TENSORRT, w=(4, 3, 3, 3))) == [("Conv", ()), ("Relu", ())]


RESIDUAL = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
    c = Conv<pads=[1,1,1,1]>(x, w)  a = Add(c, x)  y = Relu(a) }"""


@pytest.mark.parametrize(
    ("fuses", "groups"),
    [
        (TENSORRT, [("Conv", ("Add", "Relu"))]),
        ("residual_add", [("Conv", ("Add",)), ("Relu", ())]),
        ("batch_norm activation", [("Conv", ()), ("Add", ()), ("Relu", ())]),
    ],
)
def test_a_residual_addition_is_folded_where_the_stack_says_so(
    read: Read, fuses: str, groups: list[tuple[str, tuple[str, ...]]]
) -> None:
    work = read(RESIDUAL, fuses=fuses, w=(4, 4, 3, 3))
    assert shape_of(work) == groups
    assert_every_tensor_is_written_before_it_is_read(work)


def test_a_broadcast_addition_is_not_a_residual(read: Read) -> None:
    text = """g (float[1,3,8,8] x, float[1,4,1,1] b) => (float[1,4,6,6] y) { c = Conv(x, w) y = Add(c, b) }"""
    assert shape_of(read(text, fuses=TENSORRT, w=(4, 3, 3, 3))) == [("Conv", ()), ("Add", ())]


def test_a_residual_that_joins_two_convolutions_is_folded_into_one_of_them(read: Read) -> None:
    """The downsampling block of every ResNet: both branches end in a convolution."""
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        c = Conv<pads=[1,1,1,1]>(x, w)  d = Conv(x, v)  a = Add(c, d)  y = Relu(a) }"""
    work = read(text, fuses=TENSORRT, w=(4, 4, 3, 3), v=(4, 4, 1, 1))
    assert sorted(shape_of(work)) == [("Conv", ()), ("Conv", ("Add", "Relu"))]
    assert_every_tensor_is_written_before_it_is_read(work)
    tensor = 4 * 256
    assert sum(op.activation_bytes for op in work.operators) == 2 * tensor + 3 * tensor


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ("y = Flatten(r)", (1, 256)),
        ("y = Reshape(r, to)", (1, 256)),
        ("y = Unsqueeze(r, axis)", (1, 1, 4, 8, 8)),
        ("i = Identity(r) y = Dropout(i)", (1, 4, 8, 8)),
    ],
)
def test_views_are_free(read: Read, body: str, output: tuple[int, ...]) -> None:
    dims = ",".join(map(str, output))
    weights = {"to": np.array([1, 256])} if "to" in body else {"axis": np.array([0])} if "axis" in body else {}
    work = read(f"g (float[1,4,8,8] x) => (float[{dims}] y) {{ r = Relu(x) {body} }}", **weights)
    assert shape_of(work) == [("Relu", ())]
    assert work.outputs == work.operators[0].writes
    assert work.weight_bytes == 0
    assert sum(work.tensor_bytes.values()) == 2 * 4 * 256


def test_an_operator_behind_a_view_reads_the_tensor_itself(read: Read) -> None:
    text = "g (float[1,4,8,8] x) => (float[1,256] y) { r = Relu(x) f = Flatten(r) y = Tanh(f) }"
    relu, tanh = read(text).operators
    assert tanh.reads == relu.writes
    assert live_bytes(read(text)) == [2048, 2048]


def test_a_view_of_another_domain_is_work_of_an_unknown_kind(read: Read) -> None:
    text = "g (float[1,4] x) => (float[1,4] y) { r = Relu(x) y = acme.Reshape(r) }"
    work = read(text, domains=', "acme" : 1')
    assert [(op.op_type, op.op_class) for op in work.operators] == [
        ("Relu", "elementwise"),
        ("acme.Reshape", "unknown"),
    ]
    assert_every_tensor_is_written_before_it_is_read(work)


def test_dead_and_constant_nodes_are_not_work(read: Read) -> None:
    text = """g (float[1,4] x) => (float[1,4] y) {
        dead = Tanh(x)  alsodead = Relu(dead)
        t = Transpose(w)  c = Mul(t, t)  two = Constant<value_float=2.0>()
        z = Mul(x, two)
        y = Add(z, c) }"""
    work = read(text, w=(4, 1))
    assert shape_of(work) == [("Mul", ()), ("Add", ())]


def test_random_numbers_are_work(read: Read) -> None:
    text = "g (float[1,4] x) => (float[1,4] y) { r = RandomNormal<shape=[1,4]>() y = Add(x, r) }"
    assert shape_of(read(text)) == [("RandomNormal", ()), ("Add", ())]


def test_a_weight_that_two_operators_share_weighs_once_in_memory_and_twice_in_traffic(read: Read) -> None:
    text = "g (float[4,4] x) => (float[4,4] y) { a = MatMul(x, w) y = MatMul(a, w) }"
    work = read(text, w=(4, 4))
    assert [op.weight_bytes for op in work.operators] == [64, 64]
    assert estimate(work, load_stack("desktop_cpu/onnxruntime-fp32")).weight_bytes == 64


def test_a_varying_dimension_is_refused_with_a_way_out() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[1,N,4] x) => (float[1,N,4] y) { y = Relu(x) }'
    )
    with pytest.raises(InvalidInput, match="'x'") as refusal:
        read_workload(onnx_ir.from_proto(proto))
    assert "--input" in refusal.value.hint


def test_an_unknown_operator_is_extrapolated_and_never_free(read: Read) -> None:
    text = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { r = Relu(x) y = acme.Swirl(r) }"
    work = read(text, domains=', "acme" : 1')
    swirl = work.operators[1]
    assert (swirl.op_type, swirl.op_class) == ("acme.Swirl", "unknown")
    priced = estimate(work, load_stack("desktop_cpu/onnxruntime-fp32"))
    row = priced.operators[1]
    assert row.extrapolated
    assert not priced.operators[0].extrapolated
    assert row.latency_s > 0
    assert priced.extrapolated


def test_an_operator_of_another_domain_with_a_known_name_is_unknown(read: Read) -> None:
    text = "g (float[1,3,8,8] x) => (float[1,4,6,6] y) { c = acme.Conv(x, w) y = Relu(c) }"
    work = read(text, fuses=TENSORRT, domains=', "acme" : 1', w=(4, 3, 3, 3))
    assert (work.operators[0].op_type, work.operators[0].op_class) == ("acme.Conv", "unknown")


BRANCH = """g (float[1,64] x, bool go) => (float[1,64] y) {
    a = Tanh(x)
    b = Relu(a)
    c = Exp(b)
    y = If (go) <
        then_branch = t () => (float[1,64] p) { p = Add(a, c) },
        else_branch = e () => (float[1,64] q) { q = Sub(a, c) }
    > }"""


def test_what_a_subgraph_captures_stays_alive_until_it_runs(read: Read) -> None:
    work = read(BRANCH)
    branch = work.operators[-1]
    assert branch.op_type == "If"
    assert branch.op_class == "unknown"
    assert {"a", "c"} <= set(branch.reads), "the branches read what they capture"
    assert live_bytes(work)[-1] == 3 * 256 + 1  # a, c, y and the condition


def test_a_loop_with_constant_bounds_over_activations_is_work(read: Read) -> None:
    text = """g (float[1,64] x) => (float[1,64] y) {
        r = Relu(x)
        y = Loop (trips, go, start) <
            body = b (int64 i, bool c, float[1,64] s) => (bool d, float[1,64] t) { d = Identity(c) t = Add(s, r) }
        > }"""
    work = read(text, trips=np.array(3), go=np.array(True), start=np.zeros((1, 64), np.float32))
    assert [(op.op_type, op.repeats) for op in work.operators] == [("Relu", 1), ("Add", 3), ("Loop", 1)]


def test_the_module_and_the_line_of_the_anchor_are_kept() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }'
    )
    model = onnx_ir.from_proto(proto)
    model.graph.node(0).metadata_props[SOURCE_KEY] = "net.py:12"
    assert read_workload(model).operators[0].source == "net.py:12"
    (priced,) = estimate(model, load_stack("desktop_cpu/onnxruntime-fp32")).operators
    assert priced.where == priced.source == "net.py:12"
    model.graph.node(0).metadata_props[MODULE_KEY] = "body.1"
    (priced,) = estimate(model, load_stack("desktop_cpu/onnxruntime-fp32")).operators
    assert (priced.where, priced.module, priced.source) == ("body.1", "body.1", "net.py:12")


def test_narrowing_keeps_arithmetic_and_divides_bytes(read: Read) -> None:
    work = read(CONV_BN_RELU, fuses=TENSORRT, w=(4, 3, 3, 3), **NORM)
    for dtype, ratio in (("float16", 2), ("int8", 4), ("float32", 1)):
        narrow = work.at_precision(dtype)
        assert narrow.macs == work.macs
        assert narrow.weight_bytes * ratio == work.weight_bytes
        assert {name: size * ratio for name, size in narrow.tensor_bytes.items()} == work.tensor_bytes
        assert {op.dtype for op in narrow.operators} == {dtype}


def test_narrowing_leaves_integers_as_wide_as_they_are(read: Read) -> None:
    text = "g (int64[1,5] ids) => (float[1,5,8] y) { e = Gather(table, ids) y = Relu(e) }"
    narrow = read(text, table=(100, 8)).at_precision("int8")
    assert narrow.tensor_bytes["ids"] == 40
    gather = narrow.operators[0]
    assert gather.input_bytes == sum(narrow.tensor_bytes[name] for name in gather.reads)


def test_a_lookup_reads_its_rows_and_stores_its_table(read: Read) -> None:
    work = read("g (int64[4] i) => (float[4,16] y) { y = Gather(w, i) }", w=(1000, 16))
    (op,) = work.operators
    assert op.weight_bytes == op.output_bytes == 4 * 16 * 4
    assert work.weight_bytes == 1000 * 16 * 4
    assert work.at_precision("float16").weight_bytes == 1000 * 16 * 2


QUANTIZED_CONV_RELU = """g (float[1,4,8,8] x) => (float[1,4,6,6] y) {
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    wd = DequantizeLinear(w, s, z)
    c = Conv(xd, wd)
    r = Relu(c)
    rq = QuantizeLinear(r, s, z)
    rd = DequantizeLinear(rq, s, z)
    vd = DequantizeLinear(w, s, z)
    d = Conv<pads=[1,1,1,1]>(rd, vd)
    dq = QuantizeLinear(d, s, z)
    y = DequantizeLinear(dq, s, z) }"""


@pytest.mark.parametrize("fuses", ["batch_norm relu", TENSORRT])
def test_an_activation_that_stays_before_its_rounding_is_part_of_the_integer_operator(read: Read, fuses: str) -> None:
    """Symmetric integers cannot stand for a Relu, so it stays in the graph; nothing is converted for it."""
    work = read(QUANTIZED_CONV_RELU, fuses=fuses, w=np.zeros((4, 4, 3, 3), np.int8), s=np.float32(0.1),
                z=np.int8(0))  # fmt: skip
    convs = [("Conv", ("Relu",)), ("Conv", ())]
    assert shape_of(work) == [("QuantizeLinear", ()), *convs, ("DequantizeLinear", ())]
    assert work.tensor_bytes["r"] == 4 * 6 * 6
