"""CastFloat16 as a device would run it: what overflows or vanishes shows, though onnxruntime hides it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir
import pytest

from passes.context import Budget
from passes.contract import PassFailed
from passes.dataset import Dataset
from passes.onnx_level.cast_float16 import CastFloat16
from passes.onnx_level.half import holds_float16, rounding
from passes.onnxruntime import Session
from passes.program import Program
from passes.proof import Decision

Make = Callable[..., Any]
NANO = "jetson_nano/tensorrt-fp16"
half, wide = np.float16, np.float32


def answers(program: Program, x: np.ndarray) -> np.ndarray:
    answer: np.ndarray = program.run({"x": x})["y"]
    return answer


# ---- rounding against numpy


def test_every_result_is_stored_in_float16(program: Make, noise: Make) -> None:
    """Sums inside an operator stay in float32, what one operator hands to the next does not."""
    text = "g (float16[3,64] x) => (float16[3,8] y) { a = MatMul(x, w)  b = Add(a, c)  d = Mul(b, b)  y = Sub(d, a) }"
    w, c = noise(64, 8).astype(half), noise(8, seed=1).astype(half)
    start = program(text, w=w, c=c)
    x = noise(3, 64, seed=2).astype(half)
    a = (x.astype(wide) @ w.astype(wide)).astype(half)
    b = (a.astype(wide) + c.astype(wide)).astype(half)
    d = (b.astype(wide) * b.astype(wide)).astype(half)
    want = (d.astype(wide) - a.astype(wide)).astype(half)
    have = answers(start, x)
    assert have.dtype == half
    np.testing.assert_array_equal(have, want)


def test_what_is_too_large_becomes_infinite(program: Make) -> None:
    start = program("g (float16[1,2] x) => (float16[1,2] y) { a = Mul(x, big)  y = Mul(a, small) }",
                    big=np.full(2, 1000, half), small=np.full(2, 0.001, half))  # fmt: skip
    have = answers(start, np.array([[10, 100]], half))
    assert have[0, 0] == pytest.approx(10, rel=1e-2)
    assert have[0, 1] == np.inf


def test_plain_onnxruntime_hides_it(program: Make) -> None:
    """Why the rounding is written into the graph: when this fails, it need not be any more."""
    start = program("g (float16[1,2] x) => (float16[1,2] y) { a = Mul(x, big)  y = Mul(a, small) }",
                    big=np.full(2, 1000, half), small=np.full(2, 0.001, half))  # fmt: skip
    assert np.isfinite(Session(start.onnx_bytes)({"x": np.array([[10, 100]], half)})["y"]).all()


def test_what_is_too_small_vanishes(program: Make) -> None:
    start = program("g (float16[1,1] x) => (float16[1,1] y) { a = Mul(x, tiny)  y = Div(a, tiny) }",
                    tiny=np.full(1, 1e-4, half))  # fmt: skip
    assert answers(start, np.array([[1e-5]], half))[0, 0] == 0


def test_parts_in_float32_are_not_rounded(program: Make, noise: Make) -> None:
    text = """g (float[2,8] x) => (float[2,8] y) {
        a = Mul(x, w)  h = Cast<to=10>(a)  b = Add(h, c)  f = Cast<to=1>(b)  y = Mul(f, w) }"""
    w, c, x = noise(8), noise(8, seed=1).astype(half), noise(2, 8, seed=2)
    want = ((x * w).astype(half).astype(wide) + c.astype(wide)).astype(half).astype(wide) * w
    have = answers(program(text, w=w, c=c), x)
    assert have.dtype == wide
    np.testing.assert_array_equal(have, want)


def test_inputs_and_outputs_keep_their_types(program: Make) -> None:
    text = """g (float16[2] x, float[2] z, int64[2] i) => (float16[2] y, float[2] u, int64[2] j, float16[2] twice) {
        y = Neg(x)  twice = Add(y, y)  u = Neg(z)  j = Neg(i) }"""
    start = program(text)
    found = rounding(start.model)
    assert found is not None
    assert [v.dtype.name for v in found.graph.inputs] == ["FLOAT16", "FLOAT", "INT64"]
    assert [(v.name, v.dtype.name) for v in found.graph.outputs] == [
        ("y", "FLOAT16"), ("u", "FLOAT"), ("j", "INT64"), ("twice", "FLOAT16"),
    ]  # fmt: skip
    answer = start.run({"x": np.ones(2, half), "z": np.ones(2, wide), "i": np.ones(2, np.int64)})
    assert answer["twice"].tolist() == [-2, -2]


def test_an_output_that_is_read_inside_is_rounded_for_its_readers(program: Make) -> None:
    text = "g (float16[1,1] x) => (float16[1,1] a, float16[1,1] y) { a = Mul(x, big)  y = Mul(a, small) }"
    start = program(text, big=np.full(1, 1000, half), small=np.full(1, 0.001, half))
    answer = start.run({"x": np.array([[100]], half)})
    assert (answer["a"][0, 0], answer["y"][0, 0]) == (np.inf, np.inf)


def test_weights_that_are_answers(program: Make) -> None:
    start = program("g (float16[2] x) => (float16[2] y, float16[2] w) { y = Add(x, w) }", w=np.ones(2, half))
    answer = start.run({"x": np.ones(2, half)})
    assert [answer[name].dtype for name in ("y", "w")] == [half, half]
    assert answer["w"].tolist() == [1, 1]


def test_an_input_that_is_an_answer(program: Make) -> None:
    start = program("g (float16[2] x) => (float16[2] y, float16[2] x2) { y = Neg(x)  x2 = Identity(x) }")
    answer = start.run({"x": np.ones(2, half)})
    assert [answer[name].dtype for name in ("y", "x2")] == [half, half]


def test_the_graph_given_stays_as_it_was(program: Make) -> None:
    start = program("g (float16[2] x) => (float16[2] y) { a = Add(x, w)  y = Neg(a) }", w=np.ones(2, half))
    before = start.onnx_bytes
    rounding(start.model)
    assert onnx_ir.to_proto(start.model).SerializeToString(deterministic=True) == before


CONTROL = {
    "branch": """g (float16[2] x, bool c) => (float16[2] y) {
        a = Neg(x)  y = If(c) <then_branch = t () => (float16[2] p) { p = Neg(a) },
        else_branch = e () => (float16[2] q) { q = Identity(a) }> }""",
    "random": "g (float16[2] x) => (float16[2] y) { r = RandomNormalLike<dtype=10, seed=1.0>(x)  y = Mul(x, r) }",
}


@pytest.mark.parametrize("case", CONTROL)
def test_what_cannot_be_written_runs_as_it_is(case: str, program: Make) -> None:
    start = program(CONTROL[case])
    assert holds_float16(start.model)
    assert rounding(start.model) is None
    inputs = {"x": np.ones(2, half)} | ({"c": np.array(True)} if case == "branch" else {})
    answer = start.run(inputs)["y"]
    assert answer.dtype == half
    if case == "branch":
        assert answer.tolist() == [1, 1]


def test_a_float32_graph_is_not_touched(program: Make) -> None:
    assert not holds_float16(program("g (float[2] x) => (float[2] y) { y = Neg(x) }").model)


# ---- the pass


NARROW = """g (float[64,512] x) => (float[64,512] y) {
    [first] a = MatMul(x, w)  [square] b = Mul(a, a)  [shrink] c = Mul(b, small)  [last] y = MatMul(c, v) }"""


def narrow(program: Make) -> Program:
    """Squares of about 300 overflow float16 (65504), and shrink again before anybody sees them."""
    made: Program = program(NARROW, w=np.eye(512, dtype=wide) * 300, small=np.full(512, 1e-4, wide), v=(512, 512))
    return made


@pytest.fixture
def data(noise: Make) -> Dataset:
    x = np.clip(noise(2, 64, 512), -2, 2) + 1
    return Dataset("d", lambda: [{"x": sample} for sample in x], 2)


def test_an_overflow_inside_is_found_and_kept_in_float32(program: Make, context: Make, data: Dataset) -> None:
    start, ctx = narrow(program), context(NANO, data=data)
    alone = CastFloat16().apply(start, ctx)
    sample = next(iter(data))
    assert np.isfinite(Session(alone.onnx_bytes)(sample)["y"]).all(), "plain onnxruntime shows nothing"
    assert not np.isfinite(alone.run(sample)["y"]).all(), "the device would"
    after, proof = CastFloat16()(start, ctx)
    assert proof.decision is Decision.NARROWED
    assert set(proof.settings["exclude"]) == {"square", "shrink"}
    assert proof.worst_sqnr_db > 40
    by_name = {node.name: node for node in after.graph}
    assert by_name["square"].outputs[0].dtype.name == "FLOAT"
    assert by_name["last"].outputs[0].dtype.name == "FLOAT16"
    assert after.signature == start.signature


def test_what_overflows_everywhere_is_reverted(program: Make, context: Make, data: Dataset) -> None:
    text = "g (float[64,512] x) => (float[64,512] y) { [a] b = MatMul(x, w)  [c] y = MatMul(b, w) }"
    start = program(text, w=np.eye(512, dtype=wide) * 70_000)
    after, proof = CastFloat16()(start, context(NANO, data=data))
    assert (proof.decision, after) == (Decision.REVERTED, start)
    assert proof.reason


def test_sums_that_lose_too_much_are_protected(program: Make, context: Make) -> None:
    """The mean of values near 1000 that differ by thousandths; float16 has steps of a half there."""
    text = """g (float[1,64] x) => (float[1,64] y) {
        [mean] m = ReduceMean(x, last)  [centre] d = Sub(x, m)  y = Mul(d, w) }"""
    start = program(text, last=np.array([-1]), w=np.ones(64, wide))
    x = 1000 + np.random.default_rng(0).standard_normal((4, 64)).astype(wide) * 0.3
    ctx = context(NANO, data=Dataset.of_arrays("d", {"x": x}), budget=Budget(min_sqnr_db=30))
    _, proof = CastFloat16()(start, ctx)
    assert proof.decision in (Decision.NARROWED, Decision.REVERTED)


def test_a_detour_between_two_float32_parts_is_skipped(program: Make, context: Make, noise: Make) -> None:
    start = program("g (float[1,8] x) => (float[1,8] y) { [a] b = Mul(x, w)  [c] d = Mul(b, w)  [e] y = MatMul(d, v) }",
                    w=(8,), v=(8, 8))  # fmt: skip
    after = CastFloat16(exclude=("a", "c")).apply(start, context(NANO))
    x = noise(1, 8) * np.float32(1e-6)
    want, have = answers(start, x), answers(after, x)
    between = [n for n in after.graph if n.op_type == "Cast"]
    assert len(between) == 2, "into the last product and out of it"
    np.testing.assert_allclose(have, want, rtol=2e-2, atol=1e-7)
    assert have.dtype == want.dtype == wide


def test_types_of_inputs_and_outputs_stay(program: Make, context: Make) -> None:
    text = "g (float[2,8] x, int64[2,8] i) => (float[2,8] y, int64[2,8] j) { y = MatMul(x, w)  j = Neg(i) }"
    start = program(text, w=(8, 8))
    after, proof = CastFloat16()(start, context(NANO))
    assert proof.decision is Decision.KEPT
    assert after.signature == start.signature
    assert [v.dtype.name for v in (*after.graph.inputs, *after.graph.outputs)] == ["FLOAT", "INT64", "FLOAT", "INT64"]


def test_a_graph_with_branches_answers_the_same(program: Make, context: Make, noise: Make) -> None:
    text = """g (float[2,8] x, bool c) => (float[2,8] y) {
        a = MatMul(x, w)  y = If(c) <then_branch = t () => (float[2,8] p) { p = Neg(a) },
        else_branch = e () => (float[2,8] q) { q = Mul(a, a) }> }"""
    start = program(text, w=(8, 8))
    sample = {"x": noise(2, 8), "c": np.array(True)}
    ctx = context(NANO, data=Dataset("d", lambda: [sample, {**sample, "c": np.array(False)}], 2))
    after, proof = CastFloat16()(start, ctx)
    assert proof.worst_sqnr_db > 40 or after is start
    np.testing.assert_allclose(after.run(sample)["y"], start.run(sample)["y"], rtol=2e-2, atol=2e-2)


def test_a_graph_in_float16_is_refused(program: Make, context: Make) -> None:
    with pytest.raises(PassFailed, match="holds float16 already"):
        CastFloat16()(program("g (float16[2] x) => (float16[2] y) { y = Neg(x) }"), context(NANO))
