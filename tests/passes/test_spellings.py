"""Other spellings of operators: the same answers, or as near as they say, on random shapes and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes.contract import Kind
from passes.onnx_level.spellings import SPELLINGS, respell
from passes.onnxruntime import Session
from passes.program import Program
from targets.graph import SOURCE_KEY
from targets.support import load_rules, rule_names

Make = Callable[..., Any]
many = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The fixture `program` is a function without state: one serves every example."""
SHAPES = st.lists(st.integers(1, 9), min_size=2, max_size=4)

UNARY = {
    "hard_swish": "y = HardSwish(x)",
    "hard_sigmoid": "y = HardSigmoid<alpha=0.3, beta=0.4>(x)",
    "leaky_relu": "y = LeakyRelu<alpha=0.1>(x)",
    "negation": "y = Neg(x)",
    "absolute": "y = Abs(x)",
    "sum": "a = Tanh(x) b = Sigmoid(x) y = Sum(x, a, b)",
    "division": "y = Div(x, two)",
    "power": "y = Pow(x, two)",
}
NEAR = {"erf": 5e-4, "gelu": 5e-4}
"""Largest error: of the tanh form of erf 4e-4 over all arguments (the error Hendrycks and Gimpel accept for GELU)."""
TUNED = {
    "silu_hard_swish": ("s = Sigmoid(x) y = Mul(x, s)", lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "silu_relu6": ("s = Sigmoid(x) y = Mul(s, x)", lambda x: np.clip(x, 0, 6)),
    "elu_relu6": ("y = Elu(x)", lambda x: np.clip(x, 0, 6)),
}


def like(shape: list[int], letter: str = "x") -> str:
    return f"float[{','.join(map(str, shape))}] {letter}"


def answers(program: Program, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return Session(program.onnx_bytes, optimize=False)({"x": x})["y"]


def drawn(shape: list[int], seed: int) -> np.ndarray[Any, Any]:
    """Values on both sides of every bend, bounds included."""
    x = np.random.default_rng(seed).uniform(-8, 8, shape).astype(np.float32)
    x.reshape(-1)[:1] = 0
    return x


@pytest.mark.parametrize("name", UNARY)
@many
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_exact_spellings_of_any_shape_answer_the_same(name: str, shape: list[int], seed: int, program: Make) -> None:
    two = {"two": np.float32(2)} if "two" in UNARY[name] else {}
    start = program(f"g ({like(shape)}) => ({like(shape, 'y')}) {{ {UNARY[name]} }}", **two)
    after, counts = respell(start, [name])
    assert counts == {name: 1}
    assert SPELLINGS[name].kind is Kind.EXACT
    assert SPELLINGS[name].op_type not in {node.op_type for node in after.graph}
    x = drawn(shape, seed)
    np.testing.assert_allclose(answers(after, x), answers(start, x), rtol=4e-6, atol=4e-6)  # a few roundings near 8


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("keep", [0, 1])
@many
@given(shape=st.tuples(*[st.integers(1, 9)] * 4), seed=st.integers(0, 99))
def test_the_mean_of_an_image_is_global_pooling(
    keep: int, opset: int, shape: tuple[int, ...], seed: int, program: Make
) -> None:
    out = [*shape[:2], 1, 1] if keep else shape[:2]
    node = f"ReduceMean<keepdims={keep}>(x, axes)" if opset >= 18 else f"ReduceMean<keepdims={keep}, axes=[-1,2]>(x)"
    weights = {"axes": np.array([-1, 2])} if opset >= 18 else {}
    start = program(f"g ({like(list(shape))}) => ({like(list(out), 'y')}) {{ y = {node} }}", opset=opset, **weights)
    after, counts = respell(start, ["mean"])
    assert counts == {"mean": 1}
    x = drawn(list(shape), seed)
    np.testing.assert_allclose(answers(after, x), answers(start, x), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@many
@given(block=st.integers(1, 3), made=st.integers(1, 3), side=st.integers(1, 5), seed=st.integers(0, 99))
def test_depth_to_space_is_a_transposed_convolution(
    mode: str, block: int, made: int, side: int, seed: int, program: Make
) -> None:
    shape, out = [1, made * block**2, side, 2], [1, made, side * block, 2 * block]
    start = program(
        f'g ({like(shape)}) => ({like(out, "y")}) {{ y = DepthToSpace<blocksize={block}, mode="{mode}">(x) }}'
    )
    after, counts = respell(start, ["depth_to_space"])
    assert counts == {"depth_to_space": 1}
    x = drawn(shape, seed)
    np.testing.assert_array_equal(answers(after, x), answers(start, x))


@pytest.mark.parametrize(
    ("indices", "written"),
    [(0, True), (-1, True), ([1, 2], True), ([3], True), ([2, 1], False), ([0, 2], False), ([[0, 1]], False)],
)
def test_consecutive_indices_are_a_slice(indices: Any, written: bool, program: Make) -> None:
    shape, picked = [2, 4, 3], np.array(indices)
    out = [2, *picked.shape, 3]
    start = program(f"g ({like(shape)}) => ({like(out, 'y')}) {{ y = Gather<axis=1>(x, picked) }}", picked=picked)
    after, counts = respell(start, ["gather"])
    assert bool(counts) is written
    x = drawn(shape, 0)
    np.testing.assert_array_equal(answers(after, x), answers(start, x))


@pytest.mark.parametrize("form", ["none", "tanh"])
@many
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_gelu_is_near_its_tanh_form(form: str, shape: list[int], seed: int, program: Make) -> None:
    text = f'g ({like(shape)}) => ({like(shape, "y")}) {{ y = Gelu<approximate="{form}">(x) }}'
    start = program(text, opset=20)
    after, counts = respell(start, ["gelu"])
    assert counts == {"gelu": 1}
    x = drawn(shape, seed)
    allowed = NEAR["gelu"] if form == "none" else 5e-6  # the tanh form is this formula
    np.testing.assert_allclose(answers(after, x), answers(start, x), rtol=1e-5, atol=allowed)


@many
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_erf_is_near_a_tanh(shape: list[int], seed: int, program: Make) -> None:
    start = program(f"g ({like(shape)}) => ({like(shape, 'y')}) {{ y = Erf(x) }}")
    after, counts = respell(start, ["erf"])
    assert counts == {"erf": 1}
    x = drawn(shape, seed) / 3
    np.testing.assert_allclose(answers(after, x), answers(start, x), atol=NEAR["erf"])


@many
@given(rows=st.integers(1, 5), width=st.integers(2, 40), bias=st.booleans(), seed=st.integers(0, 99))
def test_layer_norm_is_an_l2_normalisation(rows: int, width: int, bias: bool, seed: int, program: Make) -> None:
    """Without ε the relative difference is ε / 2σ²: drawn values have σ > 0.1, so that it is under 5e-4."""
    shape = [1, rows, width]
    weights = {"scale": (width,), "bias": (width,)} if bias else {"scale": (width,)}
    inputs = ", ".join(["x", *weights])
    start = program(f"g ({like(shape)}) => ({like(shape, 'y')}) {{ y = LayerNormalization({inputs}) }}", **weights)
    after, counts = respell(start, ["layer_norm"])
    assert counts == {"layer_norm": 1}
    x = drawn(shape, seed)
    x[..., 0] = 9.0  # no row is constant
    np.testing.assert_allclose(answers(after, x), answers(start, x), rtol=1e-3, atol=1e-4)


def test_a_constant_row_stays_finite(program: Make) -> None:
    start = program("g (float[1,2,8] x) => (float[1,2,8] y) { y = LayerNormalization(x, scale) }", scale=(8,))
    after, _ = respell(start, ["layer_norm"])
    np.testing.assert_allclose(answers(after, np.full((1, 2, 8), 3, np.float32)), 0, atol=1e-6)


@many
@given(rows=st.integers(1, 5), width=st.integers(2, 40), seed=st.integers(0, 99))
def test_rms_norm_is_an_l2_normalisation(rows: int, width: int, seed: int, program: Make) -> None:
    shape = [rows, width]
    text = f"g ({like(shape)}) => ({like(shape, 'y')}) {{ y = RMSNormalization(x, scale) }}"
    start = program(text, opset=23, scale=(width,))
    after, counts = respell(start, ["rms_norm"])
    assert counts == {"rms_norm": 1}
    x = drawn(shape, seed)
    x[:, 0] = 9.0
    want = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True))
    scale = start.graph.initializers["scale"].const_value.numpy()
    np.testing.assert_allclose(answers(after, x), want * scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TUNED)
@many
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_simpler_activations_compute_what_they_say(name: str, shape: list[int], seed: int, program: Make) -> None:
    body, formula = TUNED[name]
    start = program(f"g ({like(shape)}) => ({like(shape, 'y')}) {{ {body} }}")
    after, counts = respell(start, [name])
    assert counts == {name: 1}
    assert SPELLINGS[name].kind is Kind.RETRAINED
    assert after.graph.num_nodes() == 1
    x = drawn(shape, seed)
    np.testing.assert_allclose(answers(after, x), formula(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "body", "weights"),
    [
        ("silu_relu6", "s = Sigmoid(x) t = Mul(x, s) y = Add(t, s)", {}),  # the gate is read again
        ("silu_relu6", "s = Sigmoid(x) t = Neg(x) y = Mul(t, s)", {}),
        ("division", "s = Sigmoid(x) y = Div(x, s)", {}),
        ("division", "y = Div(x, k)", {"k": np.array([1, 0, 2, 3], np.float32)}),
        ("power", "y = Pow(x, k)", {"k": np.float32(0.5)}),
        ("layer_norm", "y = LayerNormalization<axis=0>(x, k)", {"k": (2, 4)}),
        ("mean", "y = Tanh(x)", {}),
    ],
)
def test_what_cannot_be_written_otherwise_is_left(name: str, body: str, weights: Any, program: Make) -> None:
    start = program(f"g (float[2,4] x) => (float[2,4] y) {{ {body} }}", **weights)
    after, counts = respell(start, [name])
    assert counts == {}
    assert after is start


def test_an_old_graph_and_other_types_are_left(program: Make) -> None:
    old = program("g (float[2,4] x) => (float[2,4] y) { y = HardSigmoid(x) }", opset=12)
    assert respell(old, ["hard_sigmoid"]) == (old, {})
    whole = program("g (int32[2,4] x) => (int32[2,4] y) { y = Neg(x) }")
    assert respell(whole, ["negation"]) == (whole, {})


def test_a_second_run_changes_nothing_and_source_lines_stay(program: Make) -> None:
    start = program("g (float[2,4] x) => (float[2,4] y) { h = HardSwish(x) y = Sum(h, x) }")
    for node in start.graph:
        node.metadata_props[SOURCE_KEY] = "net.py:7"
    after, counts = respell(start, list(SPELLINGS))
    assert counts == {"hard_swish": 1, "sum": 1}
    assert {node.metadata_props.get(SOURCE_KEY) for node in after.graph} == {"net.py:7"}
    assert respell(after, list(SPELLINGS)) == (after, {})
    assert [node.op_type for node in start.graph] == ["HardSwish", "Sum"]


def test_a_batch_that_varies_is_no_obstacle(program: Make) -> None:
    start = program("g (float[n,3,8] x) => (float[n,3,8] y) { y = LayerNormalization(x, k) }", k=(8,))
    after, counts = respell(start, ["layer_norm"])
    assert counts == {"layer_norm": 1}
    for batch in (1, 3):
        x = drawn([batch, 3, 8], batch)
        np.testing.assert_allclose(answers(after, x), answers(start, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rules", rule_names())
def test_what_is_written_is_what_the_accelerator_takes(rules: str, program: Make) -> None:
    """Views and constants aside; every operator that it has is left alone."""
    taken = load_rules(rules).operators
    start = program(
        """g (float[1,4,6,6] x) => (float[1,2,1,1] y) {
        a = HardSwish(x) b = HardSigmoid(a) c = LeakyRelu(b) d = Neg(c) e = Abs(d) f = Sum(e, e) h = Div(f, k)
        i = Pow(h, k) j = Erf(i) l = DepthToSpace<blocksize=2>(j) m = ReduceMean<keepdims=1>(l, axes)
        n = LayerNormalization(m, one) o = Gather<axis=1>(n, first) y = Concat<axis=1>(o, o) }""",
        k=np.float32(2), axes=np.array([2, 3]), one=np.ones(1, np.float32), first=np.array([0]),
    )  # fmt: skip
    names = [name for name, s in SPELLINGS.items() if s.kind is not Kind.RETRAINED and s.op_type not in taken]
    after, counts = respell(start, names)
    assert len(counts) >= 10
    assert {node.op_type for node in after.graph} <= set(taken)
