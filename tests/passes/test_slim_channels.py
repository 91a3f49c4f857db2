"""Channels that are removed: the graph that is left runs, keeps its signature, and holds what its weights say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes.contract import PassFailed
from passes.onnx_level.channel_rules import channel_groups
from passes.onnx_level.matching import matchable
from passes.onnx_level.slim_channels import Slimmer, slim_channels
from passes.onnxruntime import Session
from passes.program import Program
from passes.structure import check_structure

Make = Callable[..., Any]
many = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The fixture `program` is a function without state: one serves every example."""


def shapes(program: Program) -> dict[str, tuple[int, ...]]:
    """Shape of the constant that each node reads, by node type and position."""
    found = {}
    for i, node in enumerate(program.graph):
        for position, value in enumerate(node.inputs):
            if value is not None and value.const_value is not None:
                found[f"{i} {node.op_type} {position}"] = tuple(value.const_value.shape)
    return found


def runs(program: Program) -> dict[str, Any]:
    """The answers of a graph that onnx's checker and onnxruntime take, in the shapes of its signature."""
    check_structure(program)
    rng = np.random.default_rng(1)
    sample = {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in program.example.items()}
    answers = Session(program.onnx_bytes, optimize=False)(sample)
    for spec in program.signature.outputs:
        assert spec.accepts(answers[spec.name]) == ""
        assert np.isfinite(answers[spec.name]).all()
    return answers


HALF = Slimmer(share=0.5, step=4)
HEAD = "p = GlobalAveragePool({}) f = Flatten(p) y = Gemm<transB=1>(f, wh, bh)"

INVERTED_RESIDUAL = """g (float[1,3,16,16] x) => (float[1,5] y) {
    s = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, ws, bs)
    e = Conv(s, we) er = Clip(e, zero, six)
    d = Conv<group=32, pads=[1,1,1,1]>(er, wd, bd) n = BatchNormalization(d, g, b, m, v)
    q = GlobalAveragePool(n) q1 = Conv(q, wq) q2 = Relu(q1) q3 = Conv(q2, wr) q4 = Sigmoid(q3) k = Mul(n, q4)
    o = Conv(k, wo) r = Add(o, s) """ + HEAD.format("r") + "}"  # fmt: skip
WEIGHTS: dict[str, Any] = {
    "ws": (16, 3, 3, 3), "bs": (16,), "we": (32, 16, 1, 1), "wd": (32, 1, 3, 3), "bd": (32,), "g": (32,), "b": (32,),
    "m": (32,), "v": np.linspace(0.5, 2, 32, dtype=np.float32), "wq": (8, 32, 1, 1), "wr": (32, 8, 1, 1),
    "wo": (16, 32, 1, 1), "wh": (5, 16), "bh": (5,), "zero": np.float32(0), "six": np.float32(6),
}  # fmt: skip


def test_a_block_loses_its_inner_channels_and_keeps_the_trunk(program: Make) -> None:
    start = program(INVERTED_RESIDUAL, **WEIGHTS)
    after = slim_channels(start, HALF)
    runs(after)
    have = shapes(after)
    assert have["0 Conv 1"] == (16, 3, 3, 3)
    assert have["1 Conv 1"] == (16, 16, 1, 1)
    assert have["3 Conv 1"] == (16, 1, 3, 3)
    assert have["3 Conv 2"] == (16,)
    assert have["4 BatchNormalization 4"] == (16,)
    assert have["6 Conv 1"] == (4, 16, 1, 1)
    assert have["8 Conv 1"] == (16, 4, 1, 1)
    assert have["11 Conv 1"] == (16, 16, 1, 1)
    assert have["15 Gemm 1"] == (5, 16)
    (depthwise,) = [n for n in after.graph if n.attributes.get_int("group", 1) > 1]
    assert depthwise.attributes.get_int("group", 1) == 16
    assert shapes(start)["1 Conv 1"] == (32, 16, 1, 1)  # the one that was given stays as it was


def test_the_trunk_is_narrowed_as_one(program: Make) -> None:
    after = slim_channels(program(INVERTED_RESIDUAL, **WEIGHTS), replace(HALF, trunk=True))
    runs(after)
    have = shapes(after)
    assert have["0 Conv 1"] == (8, 3, 3, 3)
    assert have["1 Conv 1"] == (16, 8, 1, 1)
    assert have["11 Conv 1"] == (8, 16, 1, 1)
    assert have["15 Gemm 1"] == (5, 8)
    assert have["15 Gemm 2"] == (5,)


def test_what_stays_are_the_first_channels(program: Make) -> None:
    """A layer whose last channels were zero answers the same without them."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((16, 3, 3, 3)), rng.standard_normal(16)
    weight[8:] = bias[8:] = 0
    start = program(
        "g (float[2,3,8,8] x) => (float[2,4,6,6] y) { c = Conv(x, w, b) r = Relu(c) y = Conv(r, u) }",
        w=weight.astype(np.float32), b=bias.astype(np.float32), u=(4, 16, 1, 1),
    )  # fmt: skip
    after = slim_channels(start, HALF)
    assert shapes(after)["0 Conv 1"] == (8, 3, 3, 3)
    np.testing.assert_allclose(runs(after)["y"], runs(start)["y"], rtol=1e-5, atol=1e-5)


@many
@given(
    channels=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    share=st.floats(0.05, 0.9),
    step=st.sampled_from([1, 4, 8, 16]),
)
def test_kept_channels_are_multiples_and_never_fewer_than_asked(
    channels: list[int], share: float, step: int, program: Make
) -> None:
    widths = [3, *channels, 2]
    nodes, weights = [], {}
    for i, (before, after) in enumerate(pairwise(widths)):
        out = "y" if i == len(channels) else f"t{i}"
        nodes.append(f"{out} = Conv({f't{i - 1}' if i else 'x'}, w{i})")
        weights[f"w{i}"] = (after, before, 1, 1)
    start = program(f"g (float[1,3,4,4] x) => (float[1,2,4,4] y) {{ {' '.join(nodes)} }}", **weights)
    slimmer = Slimmer(share=share, step=step)
    kept = [slimmer.kept(n) for n in channels]
    for n, k in zip(channels, kept, strict=True):
        assert k == n or (k % step == 0 and k >= n * (1 - share) - 1e-9)
    if kept == channels:
        with pytest.raises(PassFailed, match="no layer can lose a channel"):
            slim_channels(start, slimmer)
        return
    after = slim_channels(start, slimmer)
    runs(after)
    found = [s[0] for name, s in shapes(after).items()]
    assert found == [*kept, 2]


FLATTENED = "g (float[1,3,8,8] x) => (float[1,5] y) { c = Conv(x, w) r = Relu(c) f = {} y = Gemm<transB=1>(f, u, k) }"


@pytest.mark.parametrize(
    ("flatten", "shape"),
    [("Flatten(r)", None), ("Reshape(r, s)", [1, 16 * 36]), ("Reshape(r, s)", [1, -1]), ("Reshape(r, s)", [0, 576])],
)
def test_a_flattened_image_loses_whole_channels(flatten: str, shape: list[int] | None, program: Make) -> None:
    weights = {"w": (16, 3, 3, 3), "u": (5, 16 * 36), "k": (5,)}
    extra = {"s": np.array(shape)} if shape else {}
    start = program(FLATTENED.replace("{}", flatten, 1).replace("f = {}", flatten), **weights, **extra)
    after = slim_channels(start, HALF)
    runs(after)
    assert (8, 3, 3, 3) in shapes(after).values()
    assert (5, 8 * 36) in shapes(after).values()


def test_an_mlp_with_a_norm_and_a_transpose(program: Make) -> None:
    start = program(
        """g (float[1,4,8] x) => (float[1,4,8] y) {
        n = LayerNormalization(x, s) h = MatMul(n, w) hb = Add(h, b) a = Sigmoid(hb) t = Transpose<perm=[0,2,1]>(a)
        u = Transpose<perm=[0,2,1]>(t) o = MatMul(u, v) y = Add(o, x) }""",
        s=(8,), w=(8, 32), b=(32,), v=(32, 8),
    )  # fmt: skip
    after = slim_channels(start, HALF)
    runs(after)
    assert list(shapes(after).values()) == [(8,), (8, 16), (16,), (16, 8)]


def test_one_constant_that_two_layers_share_is_cut_for_each(program: Make) -> None:
    """Equal constants are stored once: the bias of a layer that shrinks may be that of one that does not."""
    start = program(
        "g (float[1,3,4,4] x) => (float[1,16,4,4] y) { c = Conv(x, w, b) r = Relu(c) y = Conv(r, u, b) }",
        w=(16, 3, 1, 1), u=(16, 16, 1, 1), b=(16,),
    )  # fmt: skip
    after = slim_channels(start, HALF)
    runs(after)
    assert list(shapes(after).values()) == [(8, 3, 1, 1), (8,), (16, 8, 1, 1), (16,)]


BOUND = {
    "concat": ("a = Conv(x, w) b = Relu(x) y = Concat<axis=1>(a, b)", 19, "Concat"),
    "grouped": ("c = Conv(x, w) y = Conv<group=2>(c, u)", 16, "in groups"),
    "output": ("y = Conv(x, w)", 16, "the caller sees"),
    "unknown": ("c = Conv(x, w) d = DepthToSpace<blocksize=2>(c) y = SpaceToDepth<blocksize=2>(d)", 16, "DepthToSpace"),
    "shuffle": ("c = Conv(x, w) a = Reshape(c, s) t = Transpose<perm=[0,2,1,3,4]>(a) y = Reshape(t, q)", 16, "Reshape"),
}


@pytest.mark.parametrize("kind", BOUND)
def test_a_graph_that_cannot_be_slimmed_is_refused_with_the_reason(kind: str, program: Make) -> None:
    body, channels, reason = BOUND[kind]
    weights: dict[str, Any] = {"w": (16, 3, 1, 1)}
    weights |= {"u": (16, 8, 1, 1)} if kind == "grouped" else {}
    if kind == "shuffle":
        weights |= {"s": np.array([1, 2, 8, 4, 4]), "q": np.array([1, 16, 4, 4])}
    start = program(f"g (float[1,3,4,4] x) => (float[1,{channels},4,4] y) {{ {body} }}", **weights)
    with pytest.raises(PassFailed, match=reason) as refused:
        slim_channels(start, replace(HALF, trunk=True))
    assert refused.value.hint


def test_narrow_layers_and_graphs_without_weights_are_refused(program: Make) -> None:
    narrow = program("g (float[1,3,4,4] x) => (float[1,2,4,4] y) { c = Conv(x, w) y = Conv(c, u) }",
                     w=(4, 3, 1, 1), u=(2, 4, 1, 1))  # fmt: skip
    with pytest.raises(PassFailed, match="too few for steps of 8"):
        slim_channels(narrow, Slimmer(share=0.5, step=8))
    plain = program("g (float[1,3] x) => (float[1,3] y) { y = Relu(x) }")
    with pytest.raises(PassFailed, match="it has none with weights"):
        slim_channels(plain, HALF)


def test_a_quantized_graph_is_refused(program: Make) -> None:
    start = program(
        "g (float[1,3,4,4] x) => (float[1,16,4,4] y) { d = DequantizeLinear(w, s) y = Conv(x, d) }",
        w=np.ones((16, 3, 1, 1), np.int8), s=np.float32(0.1),
    )  # fmt: skip
    with pytest.raises(PassFailed, match="quantized"):
        slim_channels(start, HALF)


def test_a_graph_whose_batch_and_size_vary(program: Make) -> None:
    start = program(
        "g (float[n,3,h,w] x) => (float[n,5] y) { c = Conv(x, k) r = Relu(c) d = Conv<group=16>(r, e) "
        + HEAD.format("d") + "}",
        k=(16, 3, 1, 1), e=(16, 1, 1, 1), wh=(5, 16), bh=(5,),
    )  # fmt: skip
    after = slim_channels(start, HALF)
    runs(after)
    assert after.signature == start.signature
    session = Session(after.onnx_bytes, optimize=False)
    for shape in ((1, 3, 4, 4), (3, 3, 7, 5)):
        assert session({"x": np.zeros(shape, np.float32)})["y"].shape == (shape[0], 5)


def test_a_shape_that_is_computed_binds_what_it_reshapes(program: Make) -> None:
    start = program(
        """g (float[n,3,4,4] x) => (float[n,16,16] y) {
        c = Conv(x, w) d = Conv(c, u) s = Shape<start=0, end=2>(d) t = Concat<axis=0>(s, k) y = Reshape(d, t) }""",
        w=(16, 3, 1, 1), u=(16, 16, 1, 1), k=np.array([16]),
    )  # fmt: skip
    groups = channel_groups(matchable(start).graph)
    assert [bool(g.held) for g in groups] == [False, True]
    after = slim_channels(start, HALF)
    runs(after)
    assert shapes(after)["0 Conv 1"] == (8, 3, 1, 1)


def test_bodies_of_control_flow_hold_what_they_read(program: Make) -> None:
    start = program(
        """g (float[1,3,4,4] x, bool c) => (float[1,16,4,4] y) {
        a = Conv(x, w)
        y = If(c) <then_branch = t () => (float[1,16,4,4] p) { p = Relu(a) },
                   else_branch = e () => (float[1,16,4,4] q) { q = Neg(a) }> }""",
        w=(16, 3, 1, 1),
    )  # fmt: skip
    with pytest.raises(PassFailed, match="no layer can lose"):
        slim_channels(start, replace(HALF, trunk=True))
