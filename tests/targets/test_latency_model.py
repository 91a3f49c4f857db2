"""The latency model on operators as networks hold them: convolutions, products, pools, attention, recurrent layers.

Every property is asked of every stack of every profile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.cost import estimate
from targets.fitting import Measured, fit_costs, fit_stack, held_out, predict
from targets.graph import read_workload
from targets.latency import CAUSES, LatencyFit, Lowering, work_of
from targets.target import load_stack, load_target, prior_of, target_names
from targets.workload import Workload

Shape = Sequence[int]
Read = Callable[..., Workload]
Sizes = dict[str, int]
STACKS = [stack for name in target_names() for stack in load_target(name).stacks.values()]
PLAIN = [stack for stack in STACKS if not stack.rules]
few = settings(max_examples=15, deadline=None)


def tensor(name: str, shape: Shape) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def weight(name: str, shape: Shape) -> ir.Value:
    value = tensor(name, shape)
    value.const_value = ir.Tensor(np.broadcast_to(np.float32(0), tuple(shape)), name=name)
    return value


def one(op_type: str, inputs: Sequence[ir.Value], output: Shape, **attributes: Any) -> Workload:
    """The workload of a graph of one operator; inputs that hold a value are its weights."""
    result = tensor("y", output)
    node = ir.node(op_type, inputs, attributes=attributes, outputs=[result])
    weights = [value for value in inputs if value.const_value is not None]
    given_ = [value for value in inputs if value.const_value is None]
    graph = ir.Graph(given_, [result], nodes=[node], initializers=weights, opset_imports={"": 23}, name="one")
    return read_workload(ir.Model(graph, ir_version=10))


def dense(n: int, ci: int, co: int, side: int, kernel: int = 3, stride: int = 1) -> Workload:
    out = -(-side // stride)
    return one(
        "Conv", [tensor("x", (n, ci, side, side)), weight("w", (co, ci, kernel, kernel))], (n, co, out, out),
        strides=[stride] * 2, kernel_shape=[kernel] * 2,
    )  # fmt: skip


def grouped(n: int, groups: int, ci: int, co: int, side: int, kernel: int = 3) -> Workload:
    """`ci` and `co` are the channels of one group."""
    x, w = tensor("x", (n, groups * ci, side, side)), weight("w", (groups * co, ci, kernel, kernel))
    return one("Conv", [x, w], (n, groups * co, side, side), group=groups, kernel_shape=[kernel] * 2)


def transposed(n: int, ci: int, co: int, side: int, kernel: int = 2) -> Workload:
    x, w = tensor("x", (n, ci, side, side)), weight("w", (ci, co, kernel, kernel))
    return one("ConvTranspose", [x, w], (n, co, side * kernel, side * kernel), strides=[kernel] * 2)


def gemm(rows: int, depth: int, columns: int) -> Workload:
    return one("Gemm", [tensor("x", (rows, depth)), weight("w", (depth, columns))], (rows, columns))


def batched(n: int, rows: int, depth: int, columns: int) -> Workload:
    return one("MatMul", [tensor("a", (n, rows, depth)), tensor("b", (n, depth, columns))], (n, rows, columns))


def pool(n: int, channels: int, side: int, kernel: int) -> Workload:
    return one(
        "MaxPool", [tensor("x", (n, channels, side, side))], (n, channels, side, side), kernel_shape=[kernel] * 2
    )


def attention(n: int, heads: int, queries: int, keys: int, width: int) -> Workload:
    shapes = (n, heads, queries, width), (n, heads, keys, width), (n, heads, keys, width)
    return one("Attention", [tensor(name, shape) for name, shape in zip("qkv", shapes, strict=True)], shapes[0])


def recurrent(steps: int, n: int, inputs: int, hidden: int) -> Workload:
    x, w, r = (
        tensor("x", (steps, n, inputs)), weight("w", (1, 4 * hidden, inputs)), weight("r", (1, 4 * hidden, hidden)),
    )  # fmt: skip
    return one("LSTM", [x, w, r], (steps, 1, n, hidden), hidden_size=hidden)


# Within one kind of kernel: a group of one channel, or only one group, is another kind.
KINDS: dict[str, tuple[Callable[..., Workload], Sizes]] = {
    "dense": (dense, {"n": 4, "ci": 300, "co": 300, "side": 60}),
    "pointwise": (lambda **sizes: dense(**sizes, kernel=1), {"n": 4, "ci": 300, "co": 300, "side": 60}),
    "strided": (lambda **sizes: dense(**sizes, stride=2), {"n": 4, "ci": 300, "co": 300, "side": 60}),
    "five by five": (lambda **sizes: dense(**sizes, kernel=5), {"n": 4, "ci": 100, "co": 100, "side": 60}),
    "depthwise": (
        lambda groups, **sizes: grouped(groups=groups + 1, ci=1, co=1, **sizes),
        {"n": 4, "groups": 300, "side": 60},
    ),
    "grouped": (
        lambda groups, ci, co, **sizes: grouped(groups=groups + 1, ci=ci + 1, co=co + 1, **sizes),
        {"n": 4, "groups": 40, "ci": 40, "co": 40, "side": 60},
    ),
    "transposed": (transposed, {"n": 4, "ci": 100, "co": 100, "side": 40}),
    "gemm": (gemm, {"rows": 300, "depth": 2000, "columns": 2000}),
    "batched": (batched, {"n": 12, "rows": 300, "depth": 300, "columns": 300}),
    "pool": (pool, {"n": 4, "channels": 300, "side": 60, "kernel": 7}),
    "attention": (attention, {"n": 4, "heads": 12, "queries": 200, "keys": 200, "width": 100}),
    "recurrent": (recurrent, {"steps": 50, "n": 8, "inputs": 300, "hidden": 300}),
}
QUICK = ("dense", "depthwise", "gemm", "attention", "recurrent")
each_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)


def of_kind(data: st.DataObject, kind: str) -> tuple[Sizes, Workload]:
    make, most = KINDS[kind]
    sizes = {name: data.draw(st.integers(1, top), label=name) for name, top in most.items()}
    return sizes, make(**sizes)


@st.composite
def networks(draw: st.DrawFn) -> Workload:
    """A few operators one behind the other; what lies between two of them is written by the first alone."""
    parts = []
    for kind in draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4)):
        make, most = KINDS[kind]
        parts.append(make(**{name: draw(st.integers(1, top)) for name, top in most.items()}))
    return joined(*parts)


def joined(*parts: Workload) -> Workload:
    """Networks side by side, run one after the other."""
    every = [_renamed(part, f"{i}/") for i, part in enumerate(parts)]
    return Workload(
        name="joined",
        operators=tuple(op for part in every for op in part.operators),
        tensor_bytes={name: size for part in every for name, size in part.tensor_bytes.items()},
        float_tensors=frozenset(name for part in every for name in part.float_tensors),
        inputs=tuple(name for part in every for name in part.inputs),
        outputs=tuple(name for part in every for name in part.outputs),
    )


def _renamed(work: Workload, prefix: str) -> Workload:
    def own(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(prefix + name for name in names)

    return replace(
        work,
        operators=tuple(replace(op, name=prefix + op.name, reads=own(op.reads), writes=own(op.writes))
                        for op in work.operators),
        tensor_bytes={prefix + name: size for name, size in work.tensor_bytes.items()},
        float_tensors=frozenset(prefix + name for name in work.float_tensors),
        inputs=own(work.inputs), outputs=own(work.outputs),
    )  # fmt: skip


# ---- more never costs less


@each_kind
@few
@given(data=st.data())
def test_a_larger_operator_of_a_kind_never_costs_less(kind: str, data: st.DataObject) -> None:
    make, most = KINDS[kind]
    sizes, small = of_kind(data, kind)
    grown = data.draw(st.sampled_from(sorted(most)), label="grown")
    large = make(**{**sizes, grown: sizes[grown] + data.draw(st.integers(1, 130), label="by")})
    for stack in STACKS:
        before, after = (estimate(work, stack, quick=True) for work in (small, large))
        assert after.latency_s >= before.latency_s * (1 - 1e-12), stack.id
        assert after.energy_j >= before.energy_j * (1 - 1e-12), stack.id


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("rows", [gemm(rows, 512, 512) for rows in (1, 2, 3, 63, 64, 65, 128, 129)]),
        ("columns", [gemm(64, 512, columns) for columns in (1, 31, 32, 33, 64, 65, 128, 129)]),
        ("depth", [gemm(64, depth, 512) for depth in (1, 2, 63, 64, 65)]),
        ("side", [dense(1, 64, 64, side) for side in (1, 2, 7, 8, 9, 56, 57)]),
        ("images", [dense(n, 64, 64, 1, kernel=1) for n in (1, 2, 3, 65)]),
        ("keys", [attention(1, 8, 1, keys, 64) for keys in (1, 2, 64, 65)]),
        ("queries", [attention(1, 8, queries, 64, 64) for queries in (1, 2, 64, 65)]),
    ],
)  # fmt: skip
def test_no_step_down_where_tiles_and_single_rows_end(name: str, sizes: list[Workload]) -> None:
    for stack in STACKS:
        latencies = [estimate(work, stack, quick=True).latency_s for work in sizes]
        assert all(a <= b * (1 + 1e-12) for a, b in pairwise(latencies)), f"{stack.id}, {name}: {latencies}"


@few
@given(network=networks(), more=networks())
def test_more_operators_never_cost_less(network: Workload, more: Workload) -> None:
    larger = joined(network, more)
    for stack in PLAIN:
        assert estimate(larger, stack, quick=True).latency_s > estimate(network, stack, quick=True).latency_s, stack.id


# ---- what an estimate is made of


@few
@given(networks())
def test_terms_add_up_and_are_causes_of_the_model(network: Workload) -> None:
    for stack in STACKS:
        found = estimate(network, stack)
        assert found.latency_s == pytest.approx(found.fixed_s + sum(row.latency_s for row in found.operators))
        for row in found.operators:
            assert set(row.terms) <= {*CAUSES, "transfer"}
            assert all(seconds >= 0 for seconds in row.terms.values())
            assert sum(row.terms.values()) == pytest.approx(row.latency_s, rel=1e-12)


@few
@given(networks())
def test_intervals_hold_their_estimate(network: Workload) -> None:
    for stack in STACKS:
        found = estimate(network, stack, quick=True)
        low, high = found.latency_interval_s
        assert 0 < low < found.latency_s < high < float("inf")
        low, high = found.energy_interval_j
        assert 0 < low < found.energy_j < high < float("inf")


@few
@given(first=networks(), second=networks())
def test_two_networks_take_the_sum_of_both_less_what_is_fixed(first: Workload, second: Workload) -> None:
    for stack in PLAIN:
        apart = [estimate(work, stack, quick=True).latency_s for work in (first, second)]
        both = estimate(joined(first, second), stack, quick=True)
        assert both.latency_s == pytest.approx(sum(apart) - stack.latency.fixed_s, rel=1e-9), stack.id


@pytest.mark.slow
@few
@given(network=networks(), times=st.floats(0.01, 100))
def test_a_stack_whose_costs_are_so_many_times_higher_is_so_many_times_slower(network: Workload, times: float) -> None:
    for stack in PLAIN:
        costs = {cause: times * cost for cause, cost in stack.latency.costs.items()}
        slower = replace(stack, latency=replace(stack.latency, costs=costs))
        before, after = (estimate(network, each, quick=True) for each in (stack, slower))
        assert after.latency_s == pytest.approx(times * before.latency_s)
        assert after.energy_j == pytest.approx(times * before.energy_j)
        assert after.latency_interval_s == pytest.approx([times * end for end in before.latency_interval_s])


@pytest.mark.slow
@few
@given(networks())
def test_a_quick_estimate_says_the_same_of_time_and_energy(network: Workload) -> None:
    for stack in STACKS:
        quick, full = estimate(network, stack, quick=True), estimate(network, stack)
        for name in (
            "latency_s",
            "latency_interval_s",
            "energy_j",
            "energy_interval_j",
            "extrapolated",
            "weight_bytes",
        ):
            assert getattr(quick, name) == pytest.approx(getattr(full, name), rel=1e-12), (stack.id, name)


@few
@given(network=networks(), size=st.integers(1, 10**7))
def test_an_unknown_operator_at_the_end_never_narrows(network: Workload, size: int) -> None:
    last = network.operators[-1]
    swirl = replace(
        network.operators[-1], name="swirl", op_type="acme.Swirl", op_class="unknown", weight_bytes=0,
        input_bytes=last.output_bytes, output_bytes=size, reads=last.writes, writes=("swirled",),
    )  # fmt: skip
    larger = replace(
        network, operators=(*network.operators, swirl), outputs=("swirled",),
        tensor_bytes={**network.tensor_bytes, "swirled": size},
    )  # fmt: skip
    for stack in PLAIN:
        before, after = (estimate(work, stack, quick=True) for work in (network, larger))
        (low, high), (lower, higher) = before.latency_interval_s, after.latency_interval_s
        assert after.extrapolated
        assert higher - lower > high - low, stack.id


# ---- precision


@few
@given(network=networks(), dtype=st.sampled_from(["float16", "int8"]))
def test_a_narrower_network_keeps_its_arithmetic_and_moves_fewer_bytes(network: Workload, dtype: str) -> None:
    narrow, ratio = network.at_precision(dtype), {"float16": 2, "int8": 4}[dtype]
    assert narrow.at_precision(dtype) == narrow
    assert [op.product for op in narrow.operators] == [op.product for op in network.operators]
    assert [op.weight_bytes * ratio for op in narrow.operators] == [op.weight_bytes for op in network.operators]
    assert [op.activation_bytes * ratio for op in narrow.operators] == [op.activation_bytes for op in network.operators]
    assert not narrow.is_float32


@pytest.mark.slow
@few
@given(networks())
def test_a_stack_prices_a_float_network_as_the_narrow_one_that_it_makes_of_it(network: Workload) -> None:
    for stack in STACKS:
        implied, stated = (estimate(work, stack) for work in (network, network.at_precision(stack.dtype)))
        assert implied.operators == stated.operators
        assert implied.latency_interval_s == stated.latency_interval_s
        assert implied.assumed_dtype == ("" if stack.dtype == "float32" else stack.dtype)


# ---- work by cause


def test_a_product_of_one_row_reads_its_weights_and_does_no_arithmetic() -> None:
    (op,) = gemm(1, 512, 1000).operators
    assert work_of(op, Lowering()) == {"launch": 1, "activations": 4 * 1512, "weights": 4 * 512_000}
    batch = work_of(op, Lowering(batch=8))
    assert batch["matmul"] == 512_000
    assert batch["weights"] == batch["packing"] == 4 * 512_000 / 8


def test_winograd_stands_for_the_arithmetic_of_a_convolution_and_transforms_both_its_sides() -> None:
    (op,) = dense(1, 16, 32, 10).operators
    work = work_of(op, Lowering(winograd=True))
    assert work["winograd"] == 9 * 16 * 32 * 100
    assert work["transforms"] == (16 + 32) * 100
    assert not {"convolution", "patches", "sums"} & set(work)
    plain = work_of(op, Lowering())
    assert (plain["convolution"], plain["patches"], plain["sums"]) == (9 * 16 * 32 * 100, 9 * 16 * 100, 32 * 100)


@few
@given(
    rows=st.integers(2, 3000), depth=st.integers(1, 600), columns=st.integers(1, 600), groups=st.integers(1, 8),
    processors=st.integers(1, 140),
)  # fmt: skip
def test_tiles_never_make_a_product_cheaper_than_its_arithmetic(
    rows: int, depth: int, columns: int, groups: int, processors: int
) -> None:
    (op,) = batched(groups, rows, depth, columns).operators
    assert work_of(op, Lowering(multiprocessors=processors))["matmul"] >= op.macs


# ---- fits


@pytest.fixture(scope="module")
def prior() -> LatencyFit:
    stack = load_stack("raspberry_pi_4/tflite-fp32")
    return prior_of(load_target(stack.target), stack.name)


def convolutional(seed: int) -> Workload:
    """A stem, some depthwise separable blocks, pools, and a classifier."""
    rng = np.random.default_rng(seed)
    side, channels = int(rng.choice([14, 28, 56])), int(rng.integers(8, 64))
    parts = [dense(1, 3, channels, side * 2, stride=2)]
    for _ in range(int(rng.integers(2, 8))):
        after = channels + int(rng.integers(0, 40))
        parts += [grouped(1, channels, 1, 1, side), dense(1, channels, after, side, kernel=1)]
        if rng.random() < 0.5:
            parts.append(dense(1, after, after, side))
        if rng.random() < 0.3:
            parts.append(pool(1, after, side, 3))
        channels = after
    return joined(*parts, gemm(1, channels, 1000))


@pytest.fixture(scope="module")
def rows(prior: LatencyFit) -> list[Measured]:
    """Networks on a machine whose costs all lie up to a factor of two beside the prior's."""
    rng = np.random.default_rng(1)
    truth = replace(prior, costs={cause: cost * np.exp(rng.uniform(-0.7, 0.7)) for cause, cost in prior.costs.items()})
    made = [Measured(f"net{i}", f"family{i % 4}", convolutional(i), 1.0) for i in range(24)]
    return [replace(row, latency_s=predict(row, truth)) for row in made]


def test_networks_that_follow_the_model_are_predicted_when_left_out(rows: list[Measured], prior: LatencyFit) -> None:
    left_out = held_out(rows, prior, lambda row: row.network)
    before = np.mean([abs(predict(row, prior) / row.latency_s - 1) for row in rows])
    assert left_out.mape < 0.04
    assert left_out.mape < before / 3


def test_what_was_left_out_does_not_move_its_own_prediction(rows: list[Measured], prior: LatencyFit) -> None:
    odd = [replace(rows[0], latency_s=5 * rows[0].latency_s), *rows[1:]]
    for group in (lambda row: row.network), (lambda row: row.family):
        plain, spoilt = held_out(rows, prior, group), held_out(odd, prior, group)
        predicted = [
            [row.latency_s / factor for row, factor in zip(of, found.factors, strict=True)]
            for of, found in ((rows, plain), (odd, spoilt))
        ]
        own = [i for i, row in enumerate(rows) if group(row) == group(rows[0])]
        assert [predicted[1][i] for i in own] == pytest.approx([predicted[0][i] for i in own], rel=1e-12)
        assert [plain.deviations[i] for i in own] == [spoilt.deviations[i] for i in own]
        others = [i for i in range(len(rows)) if i not in own]
        assert [predicted[1][i] for i in others] != [predicted[0][i] for i in others], "the others do see it"


def test_a_network_of_a_cause_that_no_row_has_gets_a_wider_interval(rows: list[Measured], prior: LatencyFit) -> None:
    fit = fit_costs(rows, prior)
    terms = [fit.terms(op) for op in rows[0].workload.operators]
    total = sum(seconds for term in terms for seconds in term.values())
    shares = {cause: sum(term.get(cause, 0.0) for term in terms) / total for cause in CAUSES}
    halved = {**{cause: share / 2 for cause, share in shares.items()}, "recurrent": 0.5}
    index = list(CAUSES).index
    assert fit.deviation(halved) > 2 * fit.deviation(shares)
    assert fit.interval(halved)[1] > fit.interval(shares)[1]
    assert fit.covariance[index("recurrent")][index("recurrent")] == pytest.approx(
        prior.covariance[index("recurrent")][index("recurrent")]
    )
    assert fit.covariance[index("convolution")][index("convolution")] < 0.3 * prior.covariance[2][2]


def test_a_fit_stays_where_a_tight_prior_is(rows: list[Measured], prior: LatencyFit) -> None:
    tight = replace(prior, covariance=(1e-10 * np.eye(len(CAUSES))).tolist())
    fit = fit_costs(rows, tight)
    assert list(fit.costs.values()) == pytest.approx(list(prior.costs.values()), rel=1e-4)


def test_fitting_is_deterministic_and_does_not_look_at_the_order_of_rows(
    rows: list[Measured], prior: LatencyFit
) -> None:
    assert fit_stack(rows, prior, "s") == fit_stack(rows, prior, "s")
    turned = fit_costs(rows[::-1], prior)
    assert list(turned.costs.values()) == pytest.approx(list(fit_costs(rows, prior).costs.values()), rel=1e-3)


# ---- counts by hand


@pytest.mark.parametrize(
    ("inputs", "output", "op_type", "attributes", "macs"),
    [
        pytest.param([(1, 8, 5, 5), (8, 3, 4, 4)], (1, 6, 10, 10), "ConvTranspose",
                     {"group": 2, "strides": [2, 2]}, 25 * 8 * 3 * 16, id="transposed, two groups"),
        pytest.param([(2, 6, 7), (6, 1, 3)], (2, 6, 9), "ConvTranspose", {"group": 6}, 2 * 7 * 6 * 3,
                     id="transposed, depthwise, one dimension"),
        pytest.param([(1, 8, 8, 8), (4, 8, 3, 3), (1, 18, 6, 6)], (1, 4, 6, 6), "DeformConv", {}, 36 * 4 * 72,
                     id="deformable"),
        pytest.param([(1, 8, 8, 8), (4, 2, 3, 3), (1, 18, 6, 6)], (1, 4, 6, 6), "DeformConv", {"group": 4},
                     36 * 4 * 18, id="deformable, groups"),
        pytest.param([(2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 5)], (2, 3, 4, 5), "Attention", {},
                     2 * 3 * 4 * 6 * (8 + 5), id="attention, heads as an axis"),
        pytest.param([(1, 8, 4, 16), (1, 2, 6, 16), (1, 2, 6, 16)], (1, 8, 4, 16), "Attention", {},
                     8 * 4 * 6 * 32, id="attention, grouped queries"),
        pytest.param([(2, 4, 24), (2, 6, 24), (2, 6, 12)], (2, 4, 12), "Attention",
                     {"q_num_heads": 3, "kv_num_heads": 3}, 2 * 4 * 6 * (24 + 12), id="attention, heads in the width"),
        pytest.param([(5, 2, 3), (2, 28, 3), (2, 28, 7)], (5, 2, 2, 7), "LSTM",
                     {"hidden_size": 7, "direction": "bidirectional"}, 2 * 5 * 2 * 4 * 7 * 10, id="lstm both ways"),
        pytest.param([(2, 5, 3), (2, 28, 3), (2, 28, 7)], (2, 5, 2, 7), "LSTM",
                     {"hidden_size": 7, "direction": "bidirectional", "layout": 1}, 2 * 5 * 2 * 4 * 7 * 10,
                     id="lstm, batch first"),
        pytest.param([(2, 5, 3), (1, 21, 3), (1, 21, 7)], (2, 5, 1, 7), "GRU", {"hidden_size": 7, "layout": 1},
                     5 * 2 * 3 * 7 * 10, id="gru, batch first"),
        pytest.param([(2, 3, 5), (2, 5, 7)], (2, 3, 7), "Einsum", {"equation": "bij,bjk->bik"}, 2 * 3 * 5 * 7,
                     id="einsum, batched product"),
        pytest.param([(3, 5), (5, 7)], (7, 3), "Einsum", {"equation": "ij,jk->ki"}, 3 * 5 * 7, id="einsum, turned"),
        pytest.param([(3, 5), (7,)], (3, 5, 7), "Einsum", {"equation": "ij,k->ijk"}, 3 * 5 * 7, id="einsum, outer"),
        pytest.param([(4, 8), (4, 8)], (), "Einsum", {"equation": "ij,ij->"}, 32, id="einsum, inner"),
    ],
)  # fmt: skip
def test_operators_count_as_by_hand(
    inputs: list[Shape], output: Shape, op_type: str, attributes: dict[str, Any], macs: int
) -> None:
    first, *rest = (tensor(f"t{i}", shape) for i, shape in enumerate(inputs))
    (op,) = one(op_type, [first, *rest], output, **attributes).operators
    assert op.macs == macs
    assert op.op_class in ("conv", "matmul", "recurrent")


@pytest.mark.parametrize(("points", "order"), [(4, 5), (8, 9), (12, 13)], ids=["16", "256", "4096"])
def test_a_fast_transform_counts_two_for_each_point_and_stage(read: Read, points: int, order: int) -> None:
    """n points, log2 n stages, two multiply-accumulates each; one stage more allowed for turning real into complex."""
    n = 2**points
    (op,) = read(f"g (float[3,{n},1] x) => (float[3,{n},2] y) {{ y = DFT<axis=1>(x) }}", opset=17).operators
    assert 3 * 2 * n * points <= op.macs <= 3 * 2 * n * order


def test_a_determinant_counts_its_elimination(read: Read) -> None:
    (op,) = read("g (float[5,30,30] x) => (float[5] y) { y = Det(x) }").operators
    assert op.macs == pytest.approx(5 * 30**3 / 3, rel=0.01)
